"""The image files in a folder, and those in it that are not taken."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from kindling.console import say
from kindling.inputs import FORMATS
from kindling.wording import listed

SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif"))
OTHERS = frozenset((".heic", ".heif", ".avif", ".tif", ".tiff"))  # images too, but no reader is at hand for all of them

MANY = 2000  # images from which on reading them takes long enough to say so

Identity = tuple[int, int]


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones aside."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[str]:
    """Paths of the images in a folder, at any depth and relative to it, by their suffixes; what is hidden aside.

    Raises:
        ValueError: If the name of one is not UTF-8, which no CSV and no terminal could show.
    """
    around = frozenset(identity(path) for path in folder.absolute().parents)
    start = os.path.join(folder, "")
    found = [path for path in files_below(start, around) if os.path.splitext(path)[1].lower() in suffixes]
    for path in found:
        if any("\udc80" <= character <= "\udcff" for character in path):  # bytes that Python could not decode
            raise ValueError(f"the name {path!a} is not UTF-8: rename it")
    return sorted(path.removeprefix(start).replace(os.sep, "/") for path in found)


def files_below(folder: str, around: frozenset[Identity]) -> Iterator[str]:
    """Regular files in a folder at any depth; a link that leads to one of the folders `around` it is passed by."""
    here = identity(folder)
    if here in around:
        return
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from files_below(path, around | {here})
        elif os.path.isfile(path):
            yield path


def identity(folder: str | Path) -> Identity:
    """What is the same for all paths that lead to a folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def say_ignored(root: Path, taken: Collection[str]) -> None:
    """Says how many images of a folder are not among those `taken`, if any."""
    ignored = set(image_files(root, SUFFIXES | OTHERS)).difference(taken)
    other = [file for file in ignored if os.path.splitext(file)[1].lower() in OTHERS]
    counts = {f"no {listed(FORMATS)}": len(other), "outside of the class folders": len(ignored) - len(other)}
    if ignored:
        say(f"ignored in {root}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count))


def say_reading(number: int) -> None:
    """Says that images are being read, if there are many."""
    if number > MANY:
        say(f"reading {number:,} images")
