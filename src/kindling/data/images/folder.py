"""The labeled images of a folder with one subfolder per class."""

import logging
from pathlib import Path

from kindling.data.images.samples import Sample
from kindling.data.images.scan import OUTSIDE, list_images, merge_unused, subfolders, warn_unused
from kindling.data.images.splits import split_folders
from kindling.utils.filetypes import FORMATS
from kindling.utils.text import join_names, suggest_path

logger = logging.getLogger(__name__)

PREPARED = "kindling.json"  # the description of a prepared data set
LAYOUT = "<class>/*.jpg or {train,val,test}/<class>/*.jpg"


def check_folder(root: Path) -> None:
    """Raise FileNotFoundError if the folder does not exist."""
    if not root.is_dir():
        advice = suggest_path(root, Path.is_dir) or f": set --data.data_dir to a folder with {LAYOUT}"
        raise FileNotFoundError(f"folder {root} not found{advice}")


def find_samples(root: Path) -> list[Sample]:
    """List the labeled images of a folder; without split folders, all of them are in train."""
    check_folder(root)
    if (root / PREPARED).is_file():
        raise ValueError(f"{root} was written by kindling prepare: use --data StreamingDataModule --data.path {root}")
    splits = split_folders(root)
    for name in subfolders(root) if splits else []:
        if name not in splits.values() and list_images(root / name).images:
            raise ValueError(
                f"{root / name} has images but is not a split like {join_names([*splits.values()])}: move or rename it"
            )
    if not splits:
        warn_swapped_levels(root)
    samples, unused = [], []
    for split, within in splits.items() or [("train", "")]:
        if not (labels := subfolders(root / within)):
            raise ValueError(f"{root / within} has no class folders: lay the images out as {LAYOUT}")
        for label in labels:
            place = (Path(within) / label).as_posix()
            found = list_images(root / place)
            if not found.images and split == "train":
                others = "".join(f"; {files[0]} is {reason}" for reason, files in [*found.unused.items()][:1])
                raise ValueError(f"{root / place} has no images ({join_names(FORMATS)}): add some or remove it{others}")
            samples += [Sample(f"{place}/{file}", label, split) for file in found.images]
            unused.append({reason: [f"{place}/{file}" for file in files] for reason, files in found.unused.items()})
    outside = {within: list_images(root / within, deep=False).images for within in {"", *splits.values()}}
    unused.append({OUTSIDE: [str(Path(within, file)) for within, files in outside.items() for file in files]})
    warn_unused(root, merge_unused(unused))
    return samples


def warn_swapped_levels(root: Path) -> None:
    """Warn if all folders have subfolders of the same names: they may be splits, and the subfolders the classes."""
    folders = subfolders(root)
    inner = {tuple(subfolders(root / name)) for name in folders}
    if len(folders) > 1 and len(inner) == 1 and len(*inner) > 1:
        classes, others = join_names(folders, 3), join_names([*inner.pop()], 3)
        logger.warning(
            f"the classes of {root} are {classes}; if the classes are {others}, rename the folders to train and test"
        )
