"""Listing of the image files in a folder, and of its other files with the reason why they are ignored."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from pathlib import Path
from typing import NamedTuple

from kindling.utils.console import progress
from kindling.utils.filetypes import FORMATS, HEAD, UNKNOWN, kind_of
from kindling.utils.inputs import open_image
from kindling.utils.text import count_noun, join_names, suggest_path

logger = logging.getLogger(__name__)

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"))

# Files of operating systems, storage devices and tools, in lower case; they are ignored without a warning.
SYSTEM = (
    *("@eadir", "@tmp", "@recycle", "@sharebin", "#recycle", "#snapshot", "@recently-snapshot", ".@__thumb"),  # NAS
    *("*@synoeastream", "*@synoresource", "synofile_thumb_*", "synophoto_thumb_*"),  # NAS: thumbnails
    *("__macosx", ".ds_store", "._*", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd", "icon\r"),  # macOS
    *(".temporaryitems", ".documentrevisions-v100", ".apdisk", ".localized", ".appledb", ".appledesktop"),  # macOS
    *("~snapshot", ".snapshot", ".zfs", ".xvpics", "_vti_*"),  # file servers, GIMP, FrontPage
    *("network trash folder", "temporary items", ".volumeicon.icns", ".com.apple.timemachine.*"),  # macOS
    *("thumbs.db", "ehthumbs*.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),  # Windows
    *("found.[0-9][0-9][0-9]",),  # chkdsk
    *("lost+found", ".trash", ".trash-*", ".directory", ".thumbnails", ".nomedia", ".nfs*", ".fuse_hidden*"),  # Linux
    *(".picasa.ini", "picasa.ini", ".picasaoriginals", ".dropbox*", ".stfolder", ".stversions", ".sync"),  # tools
    *(".git*", ".hg", ".svn", ".dvc*", ".ipynb_checkpoints", "__pycache__", ".idea", ".vscode", ".cache"),  # tools
)
BACKUPS = ("*~", "*.bak", "*.orig", "*.old", "*.part", "*.partial", "*.crdownload", "*.download", "*.swp")
_SYSTEM, _BACKUPS = (re.compile("|".join(map(translate, patterns))) for patterns in (SYSTEM, BACKUPS))
HIDDEN, OUTSIDE = "hidden", "outside of the class folders"

Identity = tuple[int, int]
Unused = Mapping[str, Sequence[str]]  # reason -> paths of the files not used for it


class Listing(NamedTuple):
    """The files in a folder, as paths relative to it.

    Attributes:
        images: The images, sorted.
        unused: The other files by the reason why they are not used, without system files.
    """

    images: list[str]
    unused: Unused


def is_system(name: str) -> bool:
    """Return whether a file or folder name belongs to an operating system or tool."""
    return bool(_SYSTEM.fullmatch(name.lower()))


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden and system folders."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith(".") and not is_system(name))


def list_images(folder: Path, deep: bool = True) -> Listing:
    """List the files in a folder, or also below if `deep`, by their suffix or, if that is unknown, by their content."""
    ancestors = frozenset(identity(path) for path in folder.absolute().parents) if deep else None
    start = os.path.join(folder, "")
    images: list[str] = []
    unused: defaultdict[str, list[str]] = defaultdict(list)
    with progress(f"listing the images of {folder}"):
        for path, reason in files_below(start, ancestors):
            if not reason and any("\udc80" <= character <= "\udcff" for character in path):  # undecodable bytes
                raise ValueError(f"the file name {path!a} is not UTF-8: rename it")
            (unused[reason] if reason else images).append(path.removeprefix(start).replace(os.sep, "/"))
    return Listing(sorted(images), {reason: sorted(files) for reason, files in unused.items()})


def find_images(path: Path, labels: Path | None = None) -> tuple[Path, list[str]]:
    """Return a folder and the images in it, or for a single image its folder and name.

    Warn about unused files, apart from the label file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} not found{suggest_path(path) or ': give an image or a folder of images'}")
    if not path.is_dir():
        return path.parent, [path.name]
    images, unused = list_images(path)
    if labels is not None:
        used = labels.resolve()
        unused = {
            reason: [file for file in files if (path / file).resolve() != used] for reason, files in unused.items()
        }
    warn_unused(path, unused)
    return path, images


def files_below(folder: str, ancestors: frozenset[Identity] | None, hidden: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the files in a folder, each with the reason why it is not used, "" for an image.

    Links to one of the `ancestors` are skipped; None excludes subfolders.
    """
    here = identity(folder)
    if ancestors is not None and here in ancestors:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system(entry.name):
                continue
            is_hidden = hidden or entry.name.startswith(".")
            if not entry.is_dir():
                yield entry.path, HIDDEN if is_hidden else why_unused(entry)
            elif ancestors is not None:
                yield from files_below(entry.path, ancestors | {here}, is_hidden)


def why_unused(entry: "os.DirEntry[str]") -> str:
    """Return the reason why a file is not used; "" for an image, even if it is broken."""
    if not entry.is_file():
        return "a broken link" if entry.is_symlink() else "not a regular file"
    name = entry.name.lower()
    if _BACKUPS.fullmatch(name):
        return "a backup copy or an unfinished download"
    if os.path.splitext(name)[1] in SUFFIXES:
        return ""
    try:
        with open(entry.path, "rb") as file:
            kind = kind_of(file.read(HEAD))
            if kind == UNKNOWN:
                open_image(file)
                return ""
    except PermissionError:
        return "no permission to read"
    except Exception:  # Pillow may raise any exception for a damaged file
        kind = UNKNOWN
    return kind if kind == "empty" else f"{kind}, not {', '.join(FORMATS)}"


def identity(folder: str | Path) -> Identity:
    """Return a value that is the same for all paths to a folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def warn_unused(root: Path, unused: Unused) -> None:
    """Warn about the unused files of a folder, one line per reason with an example."""
    for reason, files in sorted((reason, files) for reason, files in unused.items() if files):
        logger.warning(
            f"not used in {root}: {count_noun(len(files), 'file', 'files')} ({reason}): {join_names(files, 1)}"
        )


def merge_unused(found: Iterable[Unused]) -> Unused:
    """Merge the unused files of several folders."""
    merged: defaultdict[str, list[str]] = defaultdict(list)
    for unused in found:
        for reason, files in unused.items():
            merged[reason] += files
    return merged
