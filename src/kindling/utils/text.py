"""Formatting and order of names, lists of names and metrics."""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

MIN_PATH_RATIO = 0.75  # suffixes make the names of files similar
MAX_SEARCHED = 2_000  # files of a folder

_program_name = ["kindling"]


def set_program_name(name: str) -> None:
    """Set the name under which the command was started; a project may install it under its own name."""
    _program_name[:] = [name]


def program_name() -> str:
    """Return the name under which the command was started."""
    return _program_name[0]


def suggest(name: str, known: Iterable[str], group: str = "") -> str:
    """Return a hint with the `nearest` known name; empty if there is none.

    Examples:
        >>> suggest("lrr", ["lr", "momentum"], "optimizer.")
        ': did you mean optimizer.lr?'
        >>> suggest("seed", ["seed_everything", "run_name"])
        ': did you mean seed_everything?'
        >>> suggest("dir", ["labels", "data_dir"])
        ': did you mean data_dir?'
        >>> suggest("color", ["lr", "momentum"])
        ''
    """
    near = nearest(name, known)
    return f": did you mean {group}{near}?" if near else ""


def suggest_path(path: str | Path, is_usable: Callable[[Path], bool] = Path.exists) -> str:
    """Return a hint with a usable path whose only other part is the first one of `path` that does not exist.

    Returns "" if there is none. Of a folder with very many files, only some are compared.
    """
    missing = Path(path)
    with suppress(OSError):  # a folder that can't be read
        folder = next((parent for parent in missing.parents if parent.is_dir()), None)
        if folder is None or missing.exists():
            return ""
        name, *others = missing.relative_to(folder).parts
        with os.scandir(folder) as entries:
            names = {entry.name.lower(): entry.name for entry in islice(entries, MAX_SEARCHED)}
        for key in difflib.get_close_matches(name.lower(), names, cutoff=MIN_PATH_RATIO):
            if is_usable(near := folder.joinpath(names[key], *others)):
                return f": did you mean {near}?"
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar, or begins or ends the same, ignoring case; empty if none is."""
    names = {candidate.lower(): candidate for candidate in known}
    typed = name.lower()
    near = difflib.get_close_matches(typed, names, n=1)
    near = near or [key for key in names if typed and key.startswith(typed)]
    near = near or [key for key in names if typed and key.endswith(f"_{typed}")]
    return names[near[0]] if near else ""


def strip_control_characters(text: str) -> str:
    """Replace each line break and other non-printable character with a space."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders the numbers in names by value.

    Examples:
        >>> sorted(["version_10", "version_9"], key=natural_key)
        ['version_9', 'version_10']
    """
    return [(int(part or 0) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def shorten(text: str, max_length: int = 280) -> str:
    """Return a text as one printable line; if it is longer than `max_length`, "..." replaces its middle.

    Examples:
        >>> shorten("there is no file " + "x" * 50 + ": give another", max_length=40)
        'there is no file xxxxx ... give another'
    """
    line = " ".join(strip_control_characters(text).split())
    if len(line) <= max_length:
        return line
    end = max_length // 3  # messages end with what to do
    return f"{line[: max_length - end - 5].rstrip()} ... {line[-end:].lstrip()}"


def count_noun(number: int, singular: str, plural: str) -> str:
    """Return a number with its noun in the singular or plural.

    Examples:
        >>> count_noun(1, "value is", "values are"), count_noun(2000, "value is", "values are")
        ('1 value is', '2,000 values are')
    """
    return f"{number:,} {singular if number == 1 else plural}"


def count_part(number: int, total: int, noun: str, singular: str, plural: str) -> str:
    """Return how many of a total, and the verb for that many.

    Examples:
        >>> count_part(1, 2000, "images", "is", "are"), count_part(3, 2000, "images", "is", "are")
        ('1 of 2,000 images is', '3 of 2,000 images are')
    """
    return f"{number:,} of {total:,} {noun} {singular if number == 1 else plural}"


def format_metric(value: float | None) -> str:
    """Return a metric with four decimals, as a whole number if it is large, or with four significant digits.

    Examples:
        >>> format_metric(0.51015), format_metric(123456.7), format_metric(0.00001234), format_metric(None)
        ('0.5101', '123,457', '1.234e-05', '')
    """
    if value is None:
        return ""
    if 1e4 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    is_usual = value == 0 or 1e-3 <= abs(value) < 1e4
    return f"{value:.4f}" if is_usual else f"{value:.4g}"


def format_number(value: float) -> str:
    """Return a number with four significant digits, all digits before the point, and thousands separators.

    Examples:
        >>> format_number(0.0512345), format_number(52.91234), format_number(123456.7), format_number(1.5e-9)
        ('0.05123', '52.91', '123,457', '1.5e-09')
    """
    return format_numbers([value])[0]


def format_numbers(values: Sequence[float], digits: int = 4) -> list[str]:
    """Return numbers of one kind with the same number of decimals: the largest has `digits` significant ones.

    Examples:
        >>> format_numbers([1234.56, 0.5, -20]), format_numbers([0.25, -0.0123456, math.nan])
        (['1,235', '0', '-20'], ['0.2500', '-0.0123', 'nan'])
    """
    return format_like(max((abs(value) for value in values if math.isfinite(value)), default=0.0), values, digits)


def format_like(reference: float, values: Sequence[float], digits: int = 4) -> list[str]:
    """Return numbers with as many decimals as give a reference `digits` significant ones.

    Examples:
        >>> format_like(0.97, [0.97, 0.00123, 1]), format_like(0, [0.5])
        (['0.9700', '0.0012', '1.0000'], ['0.500'])
    """
    magnitude = math.floor(math.log10(abs(reference))) if reference and math.isfinite(reference) else 0
    if not -4 <= magnitude < 15:
        return [f"{value:.{digits}g}" for value in values]
    return [f"{value:,.{max(0, digits - 1 - magnitude)}f}" for value in values]


def join_names(names: Sequence[object], max_names: int = 20) -> str:
    """Return names separated by commas; if there are more than `max_names`, the first and how many follow.

    Examples:
        >>> join_names(range(1000), max_names=3)
        '0, 1, 2 and 997 more'
    """
    more = f" and {len(names) - max_names:,} more" if len(names) > max_names else ""
    return ", ".join(map(str, names[:max_names])) + more
