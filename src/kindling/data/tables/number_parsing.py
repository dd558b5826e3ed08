"""Parsing of numbers with decimal signs, digit grouping, currencies and units.

The syntax is that of tables, not of Python: `1_000`, `inf`, `nan` and `0x10` are texts. So is `1e5`, which is usually
a code: an exponent needs a sign, or a decimal sign before it, as common programs write it (`1e-05`, `1E+10`, `1.5e10`).
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats

DECIMALS = {".": ",", ",": "."}  # decimal sign -> sign that groups digits
MAX_NUMBER = 1e100  # its square is still finite
MAX_CHARACTERS = 60  # of a number or date

# Dashes and minus signs, non-breaking spaces and apostrophes -> ASCII.
SPELLINGS = str.maketrans(
    dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d", "-")
    | dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f", " ")
    | dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'")
)
SIGNS = "$¢£¤¥\u20a0-\u20cf"
CURRENCY = (
    rf"(?:[A-Z]{{0,3}}[{SIGNS}]|(?:USD|EUR|GBP|JPY|CNY|CHF|CAD|AUD|NZD|INR|BRL|MXN|SEK|NOK|DKK|PLN|CZK|HUF|TRY|RUB|ZAR"
    r"|KRW|SGD|HKD|Rs\.?|kr\.?|zł)(?![^\W\d_]))"
)
FRACTIONS = "¼½¾\u2150-\u215f\u2189"  # letters in a regular expression, but 5½ is not 5 with a unit
UNIT = rf"(?![{FRACTIONS}])(?![APap]\.?[Mm]\.?$)(?:[%‰°\"'{SIGNS}]|/?[^\W\d_])[^\d()_+\n,;:=-]{{0,14}}[23]?"
BODY = r"[0-9.,](?:[0-9.,' ]*[0-9.,])?(?:[eE][+-]?[0-9]+)?"
QUANTITY = re.compile(rf"([+-]?) ?({CURRENCY})? ?([+-]?)({BODY})(?:[.,]--?)? ?({UNIT})?((?<=[0-9])-)?")
ACCOUNTING = re.compile(rf"({CURRENCY})? ?\(({CURRENCY})? ?({BODY}) ?(%)?\) ?({UNIT})?")
NUMBER = {
    decimal: re.compile(
        rf"[1-9]\d{{0,2}}([{group}' ])\d{{3}}(?:\1\d{{3}})*(?:[{decimal}]\d*)?"  # 1,234,567.5
        rf"|[1-9]\d?(?:[{group}]\d\d)+[{group}]\d{{3}}(?:[{decimal}]\d*)?"  # 12,34,567 as in India
        rf"|(?:\d+[{decimal}]\d*|[{decimal}]\d+)(?:[eE][+-]?\d+)?"
        r"|\d+(?:[eE][+-]\d+)?",
        re.ASCII,
    )
    for decimal, group in DECIMALS.items()
}
EXPONENT = re.compile(r"-?[0-9]+[eE][0-9]+")  # a number only among other numbers
# The decimal sign of most numbers is unambiguous: 12.5, but not 1.234.
OBVIOUS = re.compile(r"-?[0-9]{1,25}([.,])(?![0-9]{3}$)[0-9]{1,25}")
ALIASES = {
    **{"usd": "$", "us$": "$", "dollar": "$", "eur": "€", "euro": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "rs": "₹"},
    **{"percent": "%", "pct": "%", "st": "", "nd": "", "rd": "", "th": ""},
}
IS_CURRENCY = re.compile(CURRENCY)

Units = NDArray[np.object_]  # texts, "" for a number without a unit


def as_number(text: str, decimal: str = ".") -> float:
    """Return the number in a text without its unit; NaN if there is none.

    Args:
        text: Such as 1234.5, "1,234.50 €", 12%, (716.45) or 5 kg.
        decimal: Decimal sign of ambiguous numbers, such as 1,234.

    Examples:
        >>> as_number("1,234.50 €"), as_number("1,234"), as_number("1,234", decimal=","), as_number("a few")
        (1234.5, 1234.0, 1.234, nan)
        >>> as_number("(716.45)"), as_number("1.5e-3"), as_number("1e5"), as_number("1_000")
        (-716.45, 0.0015, nan, nan)
    """
    return read_quantity(text, decimal)[0]


def read_quantity(text: str, decimal: str = ".") -> tuple[float, str]:
    """Split a text into a number, NaN if there is none, and its unit, "" if there is none.

    Examples:
        >>> read_quantity("$1,200.50"), read_quantity("98 °F"), read_quantity("3 Days")
        ((1200.5, '$'), (98.0, '°f'), (3.0, 'day'))
    """
    if not (parts := _split(text)):
        return math.nan, ""
    body, unit, negative = parts
    for sign in (decimal, DECIMALS[decimal]):
        if NUMBER[sign].fullmatch(body):
            number = float(body.translate({ord(DECIMALS[sign]): None, 32: None, 39: None}).replace(sign, "."))
            return math.copysign(number, -1 if negative else 1) if math.isfinite(number) else math.nan, unit
    return math.nan, ""


def _split(text: str) -> tuple[str, str, bool] | None:
    """Return digits, unit and whether the number is negative; None if the text is not a number."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.translate(SPELLINGS)
    if accounting := ACCOUNTING.fullmatch(text):
        before, inside, body, percent, after = (part or "" for part in accounting.groups())
        return body, normalize_unit(before or inside, percent or after), True
    if not (found := QUANTITY.fullmatch(text)):
        return None
    sign, before, inner, body, after, minus = (part or "" for part in found.groups())
    if len(sign + inner + minus) > 1:
        return None
    return body, normalize_unit(before, after), "-" in (sign, inner, minus)


def normalize_unit(before: str, after: str) -> str:
    """Return the canonical spelling of a unit: lower case, singular, currency signs."""
    parts = []
    for part in (before, after):
        unit = part.strip().rstrip(".").lower()
        unit = unit[:-1] if len(unit) > 2 and unit.endswith("s") and unit.isalpha() else unit
        parts.append(ALIASES.get(unit, unit))
    return parts[0] if parts[0] == parts[1] else "".join(parts)


def is_currency(unit: str) -> bool:
    """Return whether a unit is a currency."""
    return any(IS_CURRENCY.fullmatch(spelling) for spelling in (unit, unit.upper(), unit.capitalize()))


def is_typed_number(value: object) -> bool:
    """Return whether a value is a number, not a text or a bool."""
    return isinstance(value, Real | Decimal) and not isinstance(value, bool | np.bool_)


def read_quantities(values: Sequence[Any], decimal: str) -> tuple[Floats, Units]:
    """Return texts or typed values as numbers, float64 (N,), NaN where there is none; and their units."""
    if all(map(is_typed_number, values)):
        return limited(values), np.full(len(values), "", dtype=object)
    if uniform := _read_uniform(values, decimal):
        return uniform
    read = [(float(value), "") if is_typed_number(value) else read_quantity(str(value), decimal) for value in values]
    return limited([number for number, _ in read]), np.array([unit for _, unit in read], dtype=object)


def _read_uniform(values: Sequence[Any], decimal: str) -> tuple[Floats, Units] | None:
    """Parse texts that all have the format and unit of the first, much faster than one by one; None if they differ."""
    if not set(map(type, values)) <= {str} or not (found := QUANTITY.fullmatch(values[0])) or found[3] or found[6]:
        return None
    before, after = (values[0][: found.start(4)].lstrip("+-"), values[0][found.end(4) :])
    group = DECIMALS[decimal]
    number = rf"(?:[1-9][0-9]{{0,2}}(?:[{group}][0-9]{{3}})++|[0-9]++)(?:[{decimal}][0-9]++)?"
    joined = "\n".join([*values, ""])
    pattern = rf"(?:-?{re.escape(before)}{number}{re.escape(after)}\n)*+"
    one_per_line = joined.count("\n") == len(values) and re.fullmatch(pattern, joined)
    if not one_per_line or any(map(str.isdigit, before + after)):
        return None
    for part in filter(None, (before, after, group)):
        joined = joined.replace(part, "")
    numbers = limited(joined.replace(decimal, ".").split())
    return numbers, np.full(len(values), normalize_unit(found[2] or "", found[5] or ""), dtype=object)


def limited(values: Sequence[Any]) -> Floats:
    """Return numbers clipped to `MAX_NUMBER`, NaN where they are infinite."""
    numbers = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), np.clip(numbers, -MAX_NUMBER, MAX_NUMBER), np.nan)


def decimal_evidence(text: str) -> str | None:
    """Return the decimal sign of a number, "?" if ambiguous, None if it has none or is not a number.

    Examples:
        >>> decimal_evidence("1,5"), decimal_evidence("1,234"), decimal_evidence("1,234,567"), decimal_evidence("12")
        (',', '?', '.', None)
    """
    if "." not in text and "," not in text:
        return None
    if obvious := OBVIOUS.fullmatch(text):
        return obvious[1]
    if not (parts := _split(text)):
        return None
    valid = [decimal for decimal in DECIMALS if NUMBER[decimal].fullmatch(parts[0])]
    if len(valid) == 2 and parts[0].strip(".,").isdigit():
        return None
    if len(valid) == 2:
        return "?"
    return valid[0] if valid else None
