"""What the cells of a table say: names, numbers and dates, in the clothes that people put on them."""

import math
import re
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pandas import Series

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]

# What stands for a missing value, in lower case; and in the target, where "none" and "-" may well be classes.
MISSING = frozenset(
    ["", "?", "-", "--", ".", "na", "n/a", "n.a.", "nan", "nat", "null", "none", "nil", "<na>", "#n/a", "unknown"]
)
NO_CLASS = frozenset(["", "?", "na", "n/a", "nan", "null", "<na>", "#n/a"])
LARGEST = 1e100  # of a number; its square is still finite
SAMPLED = 1000  # values that tell what the decimal sign of a column is

# Currencies, per cent, and thousands signs that can't be decimal ones.
CLOTHES = re.compile(r"[$€£¥%]|(?<=\d)[\s'’](?=\d{3}(?!\d))")  # noqa: RUF001
THOUSANDS = {".": ",", ",": "."}  # by the decimal sign
NUMBER = {
    decimal: re.compile(
        rf"[+-]?(?=[{decimal}]?\d)(\d+|[1-9]\d{{0,2}}([{sign}]\d{{3}})+)?([{decimal}]\d*)?(e[+-]?\d+)?", re.IGNORECASE
    )
    for decimal, sign in THOUSANDS.items()
}
# The year first or last, the same sign twice; a time to the second. The zone, hours at most, is not minded.
DATE = re.compile(
    r"(\d{4}|\d\d?)([-./])(\d\d?)\2(\d{4}|\d\d?)"
    r"(?:[T ]+(\d\d?):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?(?: ?Z|[+-]\d\d:?\d\d)?)?"
)


def read_names(column: "Series", missing: Collection[str] = MISSING) -> tuple[Indices, list[str]]:
    """Reads a column as names.

    Returns:
        For each row the place of its name in the list, or -1 where it has none, shape (N,); and the list of different
        names as they come.
    """
    codes, values = column.factorize()
    names = [*map(as_name, values.tolist())]
    known = dict.fromkeys(name for name in names if name.lower() not in missing)
    place = {name: number for number, name in enumerate(known)}
    return np.array([*(place.get(name, -1) for name in names), -1])[codes], list(known)


def as_name(value: object) -> str:
    """A value as text that is the same whichever way it came: 3.0 is "3", True is "true"."""
    name = str(value).strip()
    if name.endswith(".0") and name[:-2].lstrip("-").isdigit():
        return name[:-2]
    return name.lower() if name.lower() in ("true", "false") else name


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted: numbers by size, others by the alphabet."""
    numbers = {name: as_number(name) for name in names}
    if any(map(math.isnan, numbers.values())):
        return sorted(numbers)
    return sorted(numbers, key=lambda name: (numbers[name], name))


def read_numbers(column: "Series", read: Callable[[str], float]) -> tuple[Floats, Indices]:
    """Reads a column as numbers.

    Args:
        column: The column; names or numbers.
        read: Gives the number that a name stands for, NaN where it stands for none.

    Returns:
        The numbers, float64 (N,), NaN where there is none or an infinite one; and the rows of what is none.
    """
    codes, names = read_names(column)
    numbers = np.array([*map(read, names), math.nan])[codes]
    strays = np.flatnonzero(np.isnan(numbers) & (codes >= 0))
    return np.where(np.isfinite(numbers), np.clip(numbers, -LARGEST, LARGEST), np.nan), strays


def as_number(name: str, decimal: str = ".") -> float:
    """The number that a name is; NaN if it is none.

    Args:
        name: Like 1234.5, "1,234.50 €" or 12%.
        decimal: Decimal sign where it could be either, as in 1,234.

    Examples:
        >>> as_number("1,234.50 €"), as_number("1,234"), as_number("1,234", decimal=","), as_number("a few")
        (1234.5, 1234.0, 1.234, nan)
    """
    if decimal == ".":
        try:
            return float(name)  # most are as plain as that
        except ValueError:
            pass
    bare = CLOTHES.sub("", name).strip()
    for sign in (decimal, THOUSANDS[decimal]):
        if NUMBER[sign].fullmatch(bare):
            return float(bare.replace(THOUSANDS[sign], "").replace(sign, "."))
    return math.nan


def decimal_commas(column: "Series") -> int:
    """How many names of a column can only have a decimal comma, less those that can only have a point."""
    if column.dtype.kind in "iufb":
        return 0
    names = read_names(column[:: len(column) // SAMPLED + 1])[1]
    some = [CLOTHES.sub("", name).strip() for name in names]
    return sum(bool(NUMBER[","].fullmatch(name)) - bool(NUMBER["."].fullmatch(name)) for name in some)


def as_days(name: str, day_first: bool) -> float:
    """The days from the year 1 to a date like 2024-03-01, 1.3.2024 or 3/1/2024 9:30; NaN if it is none.

    Args:
        name: The date.
        day_first: Whether 3/1/2024 is in January; with points the day is first in any case.

    Examples:
        >>> as_days("3.1.2024", day_first=False) - as_days("2024-01-01", day_first=False)
        2.0
    """
    if not (found := DATE.fullmatch(name)):
        return math.nan
    first, sign, middle, last, *time = found.groups()
    if len(first) == 4:
        year, month, day = first, middle, last
    elif day_first or sign == ".":
        day, month, year = first, middle, last
    else:
        month, day, year = first, middle, last
    if len(year) < 4:
        return math.nan
    try:
        hour, minute, second = (int(part or 0) for part in time)
        moment = datetime(int(year), int(month), int(day), hour, minute, second)
    except ValueError:
        return math.nan
    return (moment - datetime.min) / timedelta(days=1)


def demands_day_first(column: "Series") -> bool:
    """Whether a column has dates that make sense only with the day first."""
    return any(math.isnan(as_days(name, False)) and as_days(name, True) > 0 for name in read_names(column)[1])
