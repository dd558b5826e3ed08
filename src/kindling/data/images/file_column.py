"""The column of a file of labels that names the images."""

import logging
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kindling.utils.text import count_noun, join_names

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)


class FileColumn:
    """The column that names the images of a folder: the one with the most names of images.

    A name is a path relative to the folder, with or without its suffix if that is unambiguous.

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
        self, path: Path, frame: "DataFrame", images: Sequence[str], root: Path, excluded: Sequence[str]
    ) -> None:
        self.path, self.root, self.images = path, root, images
        self._found: defaultdict[str, list[str]] = defaultdict(list)  # images by their names
        for image in images:
            self._found[str(PurePosixPath(image).with_suffix(""))].append(image)
        self._found.update({image: [image] for image in images})
        columns = {name: frame[name].map(_as_path, "ignore") for name in frame if name not in excluded}
        # A column of small numbers may match images such as 1.png without their suffix.
        matches = {
            name: (int(column.isin(images).sum()), int(column.isin(self._found.keys()).sum()), column.nunique())
            for name, column in columns.items()
        }
        self.name = max(matches, key=matches.__getitem__, default="")
        if not matches.get(self.name, (0, 0))[1]:
            raise ValueError(
                f"{path} has no column with names of images in {root}, such as {(*images, 'none')[0]}: its columns are "
                f"{join_names([*frame])}"
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
            candidates = self._found.get(name or "", [])
            if len(candidates) > 1:
                raise ValueError(
                    f"{self._row(row)} names {name}, which may be {join_names(candidates, 3)}: add the suffix"
                )
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

    def _row(self, row: int) -> str:
        return f"{self.path}: row {row} (counted from 0)"


def _as_path(cell: object) -> str:
    """Return a cell as a relative path with forward slashes."""
    return str(cell).strip().replace("\\", "/").removeprefix("./")
