"""The values of table cells: missing ones, and the names of categories."""

import json
import math
import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.number_parsing import as_number

Targets = Indices | Floats  # (N,): classes, -1 where unknown, or scaled numbers, NaN where unknown
Column = dict[str, Any]  # the learned encoding of a column, see columns.py

# Means missing among numbers and dates, but not among categories: NA is Namibia, North America or sodium.
MISSING_WORD = re.compile(
    r"[?*.-]+|#?n/?a|<na>|n\.a\.|n\.d\.|nan|nat|null|none|nil|\\n|#(?:value|div/0|ref)!|unknown|missing"
    r"|not (?:available|applicable)",
    re.IGNORECASE,
)


def strip_text(value: Any) -> Any:
    """Strip white space from a text; return any other value unchanged."""
    return value.strip() if isinstance(value, str) else value


def are_texts(values: Collection[object]) -> bool:
    """Return whether all values are texts."""
    return set(map(type, values)) <= {str}


def as_name(value: object) -> str:
    """Return a value as text, the same for all types: 3.0 and "3" are "3", True is "true"."""
    name = str(value).strip()
    if name.endswith(".0") and name[:-2].lstrip("-").isdigit():
        return name[:-2]
    return name.lower() if name.lower() in ("true", "false") else name


def abbreviate(value: object) -> str:
    """Return a value as one line of at most 40 characters."""
    return " ".join(str(value).split())[:40]


def missing_texts(missing: Sequence[str | float] | str) -> list[str]:
    """Return the values of an option `missing` as they are compared with cells."""
    if not isinstance(missing, str | list | tuple):
        raise ValueError(f"`missing` must be quoted texts, such as --data.missing '[\"?\"]', got {missing}")
    return [*map(as_name, [missing] if isinstance(missing, str) else missing)]


def missing_option(texts: Iterable[str]) -> str:
    """Return the command-line option that treats texts as missing."""
    return f"--data.missing {shlex.quote(json.dumps([*texts], ensure_ascii=False))}"


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names: numerically if all are numbers, else alphabetically."""
    numbers = {name: as_number(name) for name in names}
    if any(map(math.isnan, numbers.values())):
        return sorted(numbers)
    return sorted(numbers, key=lambda name: (numbers[name], name))


def name_codes(numbers: Floats) -> tuple[Indices, list[str]]:
    """Return the index of each number among the distinct ones, -1 for NaN; and the distinct ones as text."""
    known = np.unique(numbers[~np.isnan(numbers)])
    codes = np.where(np.isnan(numbers), -1, np.searchsorted(known, numbers))
    return codes, [str(int(value)) for value in known.tolist()]
