"""How one file writes numbers and dates: its decimal sign, and whether the day or the month comes first."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kindling.data.tables.cells import Cells
from kindling.data.tables.dates import field_order
from kindling.data.tables.quantities import decimal_evidence
from kindling.data.tables.values import are_texts

SAMPLED = 1000  # values are looked at before all are
SEPARATED = {";": ",", ",": "."}  # by the separator of the fields: a semicolon leaves the comma to the decimals


@dataclass(frozen=True)
class FileStyle:
    """What a file says about how it writes numbers and dates.

    Attributes:
        decimals: Decimal sign of each column; None where its own values do not say.
        ambiguous: The columns with numbers that could have either.
        decimal: Decimal sign of the whole file: the one that was given, or else that of most columns that say; None
            where none does.
        separated: Decimal sign that the separator of the fields suggests, if any.
        first_fields: For each column, "day" or "month", whichever comes first in its dates; None where its own values
            do not say.
        first_field: The same for the whole file.
    """

    decimals: Mapping[str, str | None]
    ambiguous: frozenset[str]
    decimal: str | None
    separated: str | None
    first_fields: Mapping[str, str | None]
    first_field: str | None

    def decimal_of(self, name: str) -> str | None:
        """Return the decimal sign of a column, from its own numbers or else from the others; None if neither says."""
        return self.decimals[name] or self.decimal

    def day_first(self, name: str) -> bool | None:
        """Whether the day comes first in the dates of a column, as its own dates or else others say; None if none."""
        field = self.first_fields[name] or self.first_field
        return None if field is None else field == "day"


def read_style(cells: Mapping[str, Cells], separator: str | None, decimal: str | None = None) -> FileStyle:
    """Find out how a file writes numbers and dates.

    Args:
        cells: The cells of its columns.
        separator: Separator of the fields; None where it is no CSV.
        decimal: Decimal sign of the columns whose own numbers could have either.
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
        separated=SEPARATED.get(separator or ""),
        first_fields=orders,
        first_field=_majority(Counter(orders.values()), "day", "month"),
    )


def texts_of(cells: Cells) -> list[str]:
    """Return the values that are texts."""
    return cells.values if are_texts(cells.values) else [value for value in cells.values if isinstance(value, str)]


def _count(texts: Sequence[str], tell: Callable[[str], str | None]) -> Counter[str | None]:
    """Count what texts say, of all texts where a sample only has what could be either; nothing if most say nothing."""
    found = Counter(map(tell, texts[:: len(texts) // SAMPLED + 1]))
    if found["?"] and found.keys() <= {"?", "=", None}:
        found = Counter(map(tell, texts))
    return found if found[None] <= found.total() / 2 else Counter()


def _majority(found: Counter[str | None], one: str, other: str) -> str | None:
    return None if found[one] == found[other] else max(one, other, key=found.__getitem__)
