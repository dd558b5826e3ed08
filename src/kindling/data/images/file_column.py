"""The column of a label file that names the images."""

import logging
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from operator import methodcaller
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kindling.data.images.scan import SUFFIXES
from kindling.data.tables.files import locate_row
from kindling.utils.text import count_noun, join_names, shorten

if TYPE_CHECKING:
    from pandas import DataFrame, Series

logger = logging.getLogger(__name__)


class FileColumn:
    """The column that names the images of a folder: the one with the most names of images.

    A name is a path relative to the folder; its suffix and its case may differ if that is unambiguous. Folders that all
    names start with are left out if more images are found so.

    Args:
        path: The file, for messages.
        frame: Its rows.
        images: Paths of the images, relative to the folder.
        root: The folder.
        excluded: Columns that are something else.

    Attributes:
        name: Name of the column.

    Raises:
        ValueError: If no column names an image.
    """

    def __init__(
        self, path: Path, frame: "DataFrame", images: Sequence[str], root: Path, excluded: Collection[str | None]
    ) -> None:
        self.path, self.frame, self.root, self.images = path, frame, root, images
        self._found: defaultdict[str, list[str]] = defaultdict(list)  # images by their names
        for image in images:
            self._found[str(PurePosixPath(image).with_suffix(""))].append(image)
        self._found.update({image: [image] for image in images})
        self._any_case: defaultdict[str, list[str]] = defaultdict(list)
        for name, found in self._found.items():
            self._any_case[name.lower()] += found
        paths = {name: frame[name].map(_as_path, "ignore") for name in frame if name not in excluded}
        columns = {name: self._without_folders(column) for name, column in paths.items()}
        # A column of small numbers may match images such as 1.png without their suffix.
        matches = {
            name: (int(column.isin(images).sum()), self._count(column), column.nunique())
            for name, column in columns.items()
        }
        self.name = max(matches, key=matches.__getitem__, default="")
        if not matches.get(self.name, (0, 0))[1]:
            names = f"names of images in {root}, such as {(*images, 'none')[0]}"
            raise ValueError(
                f"{path} has no column with {names}: {_find_file(columns) or f'its columns are {join_names([*frame])}'}"
            )
        self._names = [name if isinstance(name, str) else None for name in columns[self.name]]

    def find(self, skip_missing: bool) -> list[str | None]:
        """Return the image of each row, None for those to leave out because their image is missing.

        Raises:
            ValueError: If a row names no image or several; or a missing one, unless `skip_missing`.
        """
        missing: list[int] = []
        found: list[str | None] = []
        for row, name in enumerate(self._names):
            candidates = self._found.get(name or "") or self._any_case.get((name or "").lower(), [])
            if len(candidates) > 1:
                advice = "add the suffix" if name in self._found else "write one of them"
                raise ValueError(f"{self._row(row)} names {name}, which may be {join_names(candidates, 3)}: {advice}")
            if not candidates:
                missing.append(row)
            found.append(candidates[0] if candidates else None)
        if missing:
            name = self._names[missing[0]]
            what = f"names {name}, which is not an image in {self.root}" if name else "names no image"
            others = f" ({count_noun(len(missing), 'such row', 'such rows')})" if len(missing) > 1 else ""
            if not skip_missing:
                raise ValueError(f"{self._row(missing[0])} {what}{others}: correct it, or add --data.skip_broken true")
            logger.warning(f"left out: {self._row(missing[0])} {what}{others}")
        return found

    def first_rows(self, found: Sequence[str | None], labels: Sequence[Hashable]) -> list[int]:
        """Return the row of each image, sorted by image; the first row if it has several with the same label.

        Args:
            found: The image of each row; None for rows to leave out.
            labels: What the file says about it.

        Raises:
            ValueError: If an image has several labels.
        """
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, image in enumerate(found):
            if image is not None:
                rows[image].append(row)
        repeated = {image: same for image, same in rows.items() if len(same) > 1}
        for image, same in repeated.items():
            if other := next((row for row in same if labels[row] != labels[same[0]]), None):
                raise ValueError(
                    f"{self._row(other)} gives {image} another label or split than row {same[0]}: keep one of them"
                )
        if repeated:
            image, same = next(iter(repeated.items()))
            number = count_noun(len(repeated), "image is", "images are")
            logger.warning(
                f"{self.path}: {number} listed more than once, such as {image} in rows {join_names(same, 3)}"
            )
        if unlisted := [image for image in self.images if image not in rows]:
            number = count_noun(len(unlisted), "image", "images")
            logger.warning(
                f"left out: {number} of {self.root} without a label in {self.path}: {join_names(unlisted, 1)}"
            )
        return [rows[image][0] for image in self.images if image in rows]

    def _count(self, column: "Series") -> int:
        """Return how many cells name an image."""
        return int(column.map(str.lower, "ignore").isin(self._any_case.keys()).sum())

    def _without_folders(self, column: "Series") -> "Series":
        """Return a column of paths without those folders at their start that hide most names of images."""
        paths = [cell.split("/")[:-1] for cell in column.dropna().unique()]
        folders = commonprefix(paths)  # noqa: RUF071 (of lists, so it compares whole folders)
        starts = ["".join(f"{folder}/" for folder in folders[:depth]) for depth in range(len(folders) + 1)]
        return max((column.map(methodcaller("removeprefix", start), "ignore") for start in starts), key=self._count)

    def _row(self, row: int) -> str:
        return f"{self.path}: {locate_row(self.path, self.frame, row)}"


def _as_path(cell: object) -> str:
    """Return a cell as a relative path with forward slashes."""
    return str(cell).strip().replace("\\", "/").removeprefix("./")


def _find_file(columns: "Mapping[str, Series]") -> str:
    """Describe the first cell that looks like an image file name; empty if none does."""
    for name, column in columns.items():
        for cell in column.dropna().unique():
            if PurePosixPath(cell).suffix.lower() in SUFFIXES:
                return f"{name} has {shorten(cell, 60)}"
    return ""
