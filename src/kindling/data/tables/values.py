"""The values of table cells: which stand for missing ones, and what the others are called."""

import json
import math
import re
import shlex
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.quantities import as_number

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


def strip_text(value: Any) -> Any:
    """Return a text without white space around it, and any other value as it is."""
    return value.strip() if isinstance(value, str) else value


def are_texts(values: Collection[object]) -> bool:
    """Whether all values are texts."""
    return set(map(type, values)) <= {str}


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
