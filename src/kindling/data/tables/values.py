"""The cells of a table: which are missing, and what the others are called."""

import json
import math
import re
import shlex
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.quantities import as_number

if TYPE_CHECKING:
    from pandas import Series

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]
Column = dict[str, Any]  # what was learned of a column: see columns.py

# What stands for a missing value among numbers or dates. Among names these are names: NA is Namibia, North America or
# sodium.
MISSING_WORD = re.compile(
    r"[?*.-]+|#?n/?a|<na>|n\.a\.|n\.d\.|nan|nat|null|none|nil|\\n|#(?:value|div/0|ref)!|unknown|missing"
    r"|not (?:available|applicable)",
    re.IGNORECASE,
)
# Checkpoints of before `missing_values` was stored took these for missing in every column.
LEGACY_WORDS = (
    "?",
    "-",
    "--",
    ".",
    "na",
    "n/a",
    "n.a.",
    "nan",
    "nat",
    "null",
    "none",
    "nil",
    "<na>",
    "#n/a",
    "unknown",
)
LEGACY_MISSING = frozenset(
    spelling for word in LEGACY_WORDS for spelling in (word, word.upper(), word.capitalize(), word.title())
) | {"NaN", "NaT"}
# Among the classes they took only these for missing.
LEGACY_NO_CLASS = frozenset(
    word for word in LEGACY_MISSING if word.lower() in ("?", "na", "n/a", "nan", "null", "<na>", "#n/a")
)


class Cells(NamedTuple):
    """The cells of a column, each different value once.

    Attributes:
        codes: Index into `values` for each row, -1 where the cell is missing, shape (N,).
        values: Texts without surrounding spaces, or typed values such as floats.
    """

    codes: Indices
    values: list[Any]

    @property
    def counts(self) -> Indices:
        """Number of rows that hold each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))


def strip_text(value: Any) -> Any:
    """Return a text without white space around it, and any other value as it is."""
    return value.strip() if isinstance(value, str) else value


def read_cells(column: "Series", missing: Collection[str] = ()) -> Cells:
    """Read a column; a cell is missing where it is empty or one of the texts in `missing`."""
    codes, uniques = column.factorize()
    values = uniques.tolist()
    strip = str.strip if are_texts(values) else strip_text  # the method is fast: millions of texts pass here
    values = [*map(strip, values)]
    absent = [value == "" for value in values] if "" in values else []
    if missing:
        absent = [as_name(value) in ("", *missing) for value in values]
    if any(absent):
        kept = ~np.array(absent)
        codes = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)[codes]
        values = [value for value, keep in zip(values, kept.tolist(), strict=True) if keep]
    return Cells(codes, values)


def as_categorical(column: "Series") -> "Series":
    """Return a column of texts that holds each different one once."""
    import pandas as pd  # half a second to import, needed by tables alone

    return pd.Series(pd.Categorical.from_codes(*column.factorize()), column.index)


def are_texts(values: Collection[object]) -> bool:
    """Whether all values are texts."""
    return set(map(type, values)) <= {str}


def read_names(column: "Series", missing: Collection[str] = ()) -> tuple[Indices, list[str]]:
    """Read a column as names.

    Returns:
        For each row the index of its name in the list, or -1 where it is missing, shape (N,); and the different names
        in order of appearance.
    """
    return name_cells(read_cells(column, missing))


def name_cells(cells: Cells) -> tuple[Indices, list[str]]:
    """Read cells as names; see `read_names`."""
    names = [*map(as_name, cells.values)]
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([*(place[name] for name in names), -1])[cells.codes], list(place)


def as_name(value: object) -> str:
    """Return a value as text that is the same whichever type it came in: 3.0 is "3", True is "true"."""
    name = str(value).strip()
    if name.endswith(".0") and name[:-2].lstrip("-").isdigit():
        return name[:-2]
    return name.lower() if name.lower() in ("true", "false") else name


def in_brief(value: object) -> str:
    """Return a value for a message: one line of at most 40 characters."""
    return " ".join(str(value).split())[:40]


def missing_option(texts: Iterable[str]) -> str:
    """Return the option that makes texts count as missing, ready to be typed."""
    return f"--data.missing {shlex.quote(json.dumps([*texts], ensure_ascii=False))}"


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names: numbers by size, others by the alphabet."""
    numbers = {name: as_number(name) for name in names}
    if any(map(math.isnan, numbers.values())):
        return sorted(numbers)
    return sorted(numbers, key=lambda name: (numbers[name], name))
