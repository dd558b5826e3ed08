"""The number and date formats of a file: its decimal sign, and whether the day or the month comes first."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kindling.data.tables.cells import Cells
from kindling.data.tables.dates import field_order
from kindling.data.tables.number_parsing import decimal_evidence
from kindling.data.tables.values import are_texts

SAMPLE_SIZE = 1000  # values to inspect first
LIKELY_DECIMALS = {";": ",", ",": "."}  # decimal sign by field separator


@dataclass(frozen=True)
class FileStyle:
    """The number and date formats of a file.

    Attributes:
        decimals: Decimal sign of each column; None if its values do not tell.
        ambiguous: Columns with numbers that could have either decimal sign.
        decimal: Decimal sign of the file: the given one, or that of most columns; None if unknown.
        separated: Decimal sign suggested by the field separator, if any.
        first_fields: "day" or "month" for each column, whichever comes first in its dates; None if its values do not
            tell.
        first_field: The same for the whole file.
    """

    decimals: Mapping[str, str | None]
    ambiguous: frozenset[str]
    decimal: str | None
    separated: str | None
    first_fields: Mapping[str, str | None]
    first_field: str | None

    def decimal_of(self, name: str) -> str | None:
        """Return the decimal sign of a column, or else that of the file; None if both are unknown."""
        return self.decimals[name] or self.decimal

    def day_first(self, name: str) -> bool | None:
        """Return whether the day comes first in the dates of a column, or else of the file; None if unknown."""
        field = self.first_fields[name] or self.first_field
        return None if field is None else field == "day"


def read_style(cells: Mapping[str, Cells], separator: str | None, decimal: str | None = None) -> FileStyle:
    """Infer the number and date formats of a file from the cells of its columns.

    `separator` is its field separator, if any; `decimal` decides columns with ambiguous numbers only.
    """
    texts = {name: texts_of(column) for name, column in cells.items()}
    signs = {
        name: _count([text for text in column if "." in text or "," in text], decimal_evidence)
        for name, column in texts.items()
    }
    decimals = {name: _majority(found, ",", ".") for name, found in signs.items()}
    fields = {name: _count(column, field_order) for name, column in texts.items()}
    orders = {name: _majority(found, "day", "month") for name, found in fields.items()}
    return FileStyle(
        decimals=decimals,
        ambiguous=frozenset(name for name, found in signs.items() if found["?"]),
        decimal=decimal or _majority(Counter(decimals.values()), ",", "."),
        separated=LIKELY_DECIMALS.get(separator or ""),
        first_fields=orders,
        first_field=_majority(Counter(orders.values()), "day", "month"),
    )


def texts_of(cells: Cells) -> list[str]:
    """Return the values that are texts."""
    return cells.values if are_texts(cells.values) else [value for value in cells.values if isinstance(value, str)]


def _count(texts: Sequence[str], classify: Callable[[str], str | None]) -> Counter[str | None]:
    """Count the classes of a sample of texts, or of all if the sample is ambiguous; empty if most have no class."""
    found = Counter(map(classify, texts[:: len(texts) // SAMPLE_SIZE + 1]))
    if found["?"] and found.keys() <= {"?", "=", None}:
        found = Counter(map(classify, texts))
    return found if found[None] <= found.total() / 2 else Counter()


def _majority(found: Counter[str | None], one: str, other: str) -> str | None:
    return None if found[one] == found[other] else max(one, other, key=found.__getitem__)
