"""Parsing of dates and times in common formats, as days."""

import math
import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.number_parsing import MAX_CHARACTERS, SPELLINGS
from kindling.data.tables.values import are_texts, as_name

CACHED = 2**16  # dates and clocks: columns of moments repeat them
DAY = 24 * 60 * 60 * 10**6  # microseconds
# A whole column of ISO dates, one per line, which NumPy parses much faster.
ISO = re.compile(r"(?:\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?\n)*+", re.ASCII)

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH_ENDINGS = ("uary", "ruary", "ch", "il", "", "e", "y", "ust", "t(?:ember)?", "ober", "ember", "ember")
MONTH = "(" + "|".join(rf"{month}(?:{ending})?" for month, ending in zip(MONTHS, MONTH_ENDINGS, strict=True)) + r")\.?"
WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,? +)?"
ORDINAL = "(?:st|nd|rd|th)?"
YEAR = r"(\d{4}|'?\d\d)"

CLOCK = r"(\d{1,3})[:h]([0-5]\d)(?::([0-5]\d|60)(?:[.,](\d+))?)? ?([ap]\.?m\.?)?|(\d\d?) ?([ap]\.?m\.?)"
ZONE = r"(?: ?(?:z|utc|gmt|[a-z]{2,4}t|[+-]\d\d:?\d\d|[+-]\d\d))?"
TIME = re.compile(rf"(?:{CLOCK}){ZONE}", re.ASCII)
# Date before time, and time before date.
DATE_TIME = re.compile(rf"(.*?[^\s,-])(?:t(?=\d)|(?<=\d{{4}}):|[\s,]+(?:-\s+|at\s+)?)((?:{CLOCK}){ZONE})", re.ASCII)
TIME_DATE = re.compile(rf"((?:{CLOCK}))[\s,]+(.*)", re.ASCII)
COMPACT_TIME = re.compile(r"(\d{8})t?(\d\d)([0-5]\d)([0-5]\d|60)?(?:\.\d+)?z?", re.ASCII)

# Each with the meaning of its groups: Y year, M month, D day, d and m (swapped unless `day_first`), Q quarter, W ISO
# week, N weekday.
PATTERNS = [
    (order, re.compile(pattern, re.ASCII))
    for order, pattern in [
        ("Y_MD", r"(\d{4})([-./:])(\d\d?)\2(\d\d?)"),
        ("YMD", r"(\d{4})(\d\d)(\d\d)"),
        ("YMD", r"(\d{4})年(\d\d?)月(\d\d?)日"),
        ("D_MY", rf"(\d\d?)(\.) ?(\d\d?)\. ?{YEAR}"),
        ("d_mY", rf"(\d\d?)([-/])(\d\d?)\2{YEAR}"),
        ("DMY", rf"{WEEKDAY}(\d\d?){ORDINAL}[-/.]? *(?:of )?{MONTH}[-/,]? *{YEAR}"),
        ("MDY", rf"{WEEKDAY}{MONTH}[- ] *(\d\d?){ORDINAL}(?:, *|[- ] *)(\d{{4}}|'\d\d)"),
        ("YMD", rf"(\d{{4}})[-/ ]?{MONTH}[-/ ]?(\d\d?)"),
        ("YM", r"(\d{4})[-/](\d\d?)"),
        ("MY", r"(\d\d?)[-/](\d{4})"),
        ("MY", rf"{MONTH}(?:[-/']|,? +){YEAR}"),
        ("YM", rf"(\d{{4}})[-/ ]?{MONTH}"),
        ("YQ", r"(\d{4})[-/ ]?q([1-4])"),
        ("QY", r"q([1-4])[-/ ]?(\d{4})"),
        ("YW", r"(\d{4})-?w(\d\d)"),
        ("YWN", r"(\d{4})-?w(\d\d)-?([1-7])"),
    ]
]
FIELDS = next(pattern for order, pattern in PATTERNS if order == "d_mY")
# Thu Mar 14 14:15:00 2024, the format of C and the Unix command `date`.
UNIX = re.compile(rf"{WEEKDAY}{MONTH} +(\d\d?) +((?:{CLOCK}))(?: [a-z]{{2,4}}t?)? +(\d{{4}})", re.ASCII)


def as_days(text: str, day_first: bool | None) -> float:
    """Return the days from the year 1 to a date, or from midnight to a time; NaN if it is neither.

    The time zone is ignored. A month, quarter or week means its first day; years of two digits are from 1969 to 2068.

    Args:
        text: Such as 2024-03-01, 1.3.2024, 3/1/2024 2:15 PM, 14-Mar-24, March 14, 2024, 2024-03 or 14:15.
        day_first: Whether 3/1/2024 is in January; with points the day always comes first. None if the year comes first
            in dates such as 24-03-01.

    Examples:
        >>> as_days("3.1.2024", day_first=False) - as_days("January 1, 2024", day_first=False)
        2.0
        >>> as_days("6:00 PM", day_first=False)
        0.75
    """
    if len(text) > MAX_CHARACTERS:
        return math.nan
    day, clock = split_time(text)
    if not day:
        return _read_time(clock, 1000) / DAY if clock else math.nan
    return float(_read_date(day, day_first) * DAY + (_read_time(clock, 24) if clock else 0)) / DAY


def read_days(values: Sequence[object], day_first: bool | None) -> NDArray[np.float64]:
    """Return the days of many values, (N,); see `as_days`."""
    if values and are_texts(values):
        joined = "\n".join([*map(str, values), ""])
        if joined.count("\n") == len(values) and ISO.fullmatch(joined):
            try:
                moments = np.array(values, dtype="datetime64[us]") - np.datetime64("0001-01-01", "us")
                return moments.astype(np.int64) / DAY
            except ValueError:  # there is no such day
                pass
    return np.array([as_days(as_name(value), day_first) for value in values], dtype=np.float64)


def split_time(text: str) -> tuple[str, str]:
    """Split a text into its date and its time, in lower case; either may be empty."""
    text = text.translate(SPELLINGS).lower()
    if TIME.fullmatch(text):
        return "", text
    if found := UNIX.fullmatch(text):
        return f"{found[1]} {found[2]}, {found[found.re.groups]}", found[3]
    if found := COMPACT_TIME.fullmatch(text):
        return found[1], f"{found[2]}:{found[3]}:{found[4] or '00'}"
    if found := DATE_TIME.fullmatch(text):
        return found[1], found[2]
    if found := TIME_DATE.fullmatch(text):
        return found[found.re.groups], found[1]
    return text, ""


@lru_cache(CACHED)
def _read_time(clock: str, hours: int) -> float:
    """Return a time or duration in microseconds; NaN if it is longer than `hours`."""
    found = TIME.fullmatch(clock)
    assert found is not None, "split_time found a time"
    hour, minute, second, fraction, half, hour_alone, half_alone = found.groups()
    half, hour = half or half_alone, int(hour or hour_alone)
    if half and not 1 <= hour <= 12:
        return math.nan
    if half:
        hour = hour % 12 + (12 if half.startswith("p") else 0)
    seconds = 3600 * hour + 60 * int(minute or 0) + int(second or 0)
    return seconds * 10**6 + int((fraction or "")[:6].ljust(6, "0")) if seconds <= 3600 * hours else math.nan


@lru_cache(CACHED)
def _read_date(text: str, day_first: bool | None) -> float:
    """Return the days from the year 1 to a date without a time; NaN if there is no such date."""
    for order, pattern in PATTERNS:
        if found := pattern.fullmatch(text):
            if order == "d_mY" and day_first is None and len(found[4]) == 2:
                order = "Y_MD"
            order = order.translate(str.maketrans("dm", "DM" if day_first else "MD"))
            return _days(dict(zip(order, found.groups(), strict=True)))
    return math.nan


def _days(known: dict[str, str]) -> float:
    year = int(known["Y"].lstrip("'"))
    if len(known["Y"].lstrip("'")) == 2:
        year += 2000 if year < 69 else 1900
    month = known.get("M", "1")
    number = int(month) if month.isdigit() else MONTHS.index(month[:3]) + 1
    if "Q" in known:
        number = 3 * int(known["Q"]) - 2
    try:
        if "W" in known:
            return date.fromisocalendar(year, int(known["W"]), int(known.get("N", 1))).toordinal() - 1
        return date(year, number, int(known.get("D", 1))).toordinal() - 1
    except ValueError:
        return math.nan


def field_order(text: str) -> str | None:
    """Return which of the first two fields of a date is the day.

    Returns:
        "day" or "month", whichever comes first; "?" if ambiguous; "=" if both are equal; None if the first two fields
        are not day and month.

    Examples:
        >>> field_order("14/03/2024"), field_order("03/14/24 9:00"), field_order("03/04/2024"), field_order("3.4.2024")
        ('day', 'month', '?', None)
    """
    if text.isascii() and "/" not in text and "-" not in text:
        return None  # fast path for most texts
    if len(text) > MAX_CHARACTERS or not (found := FIELDS.fullmatch(split_time(text)[0])):
        return None
    first, second = int(found[1]), int(found[3])
    if min(first, second) not in range(1, 13) or max(first, second) > 31:
        return None
    if first == second:
        return "="
    return "day" if first > 12 else "month" if second > 12 else "?"


def is_year_first(texts: Sequence[str]) -> bool | None:
    """Return whether the year comes first in ambiguous dates such as 24-03-14.

    The field with fewer distinct values is assumed to be the year.

    Returns:
        None if there are no such dates, or they are not ambiguous.
    """
    if not any(FIELDS.fullmatch(split_time(text[:MAX_CHARACTERS])[0]) for text in texts[:20]):
        return None  # fast path for most columns
    firsts, lasts = set(), set()
    for text in texts:
        if len(text) <= MAX_CHARACTERS and (match := FIELDS.fullmatch(split_time(text)[0])):
            if len(match[4]) != 2 or int(match[4]) > 31 or int(match[3]) > 12:
                return None
            firsts.add(int(match[1]))
            lasts.add(match[4])
    return len(firsts) < len(lasts) and len(lasts) > 12 and not firsts <= {1, 28, 29, 30, 31}
