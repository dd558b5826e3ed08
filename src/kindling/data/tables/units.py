"""The units of the numbers in a column, and their conversion in files with other units."""

import logging
import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.cells import Cells
from kindling.data.tables.number_parsing import is_currency, is_typed_number, normalize_unit
from kindling.data.tables.scaling import MISFIT_MARGIN, format_range, is_far_outside, misfit
from kindling.data.tables.values import Column, abbreviate
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

MIN_UNIT_FRACTION = 0.05  # minimum fraction of values with a unit; fewer may have it by mistake


def find_units(numbers: Floats, units: NDArray[np.object_], counts: Indices) -> list[str]:
    """Return the most frequent unit, or all currencies if it is one; empty if hardly any value has a unit.

    `counts` (N,) are the rows with each of the distinct numbers (N,), which are NaN where there is none.
    """
    if not units.any():
        return []
    rows: Counter[str] = Counter()
    for unit, count in zip(units[~np.isnan(numbers)], counts[~np.isnan(numbers)].tolist(), strict=True):
        rows[unit] += count
    found = [unit for unit, _ in rows.most_common() if unit]
    if not found or rows[found[0]] <= MIN_UNIT_FRACTION * rows.total():
        return []
    return [*filter(is_currency, found)] if is_currency(found[0]) else found[:1]


def convert(numbers: Floats, units: NDArray[np.object_], column: Column) -> Floats:
    """Return the numbers multiplied by the factors of their units; NaN if the unit is not one of the column."""
    factors = {"": 1.0} | dict.fromkeys(_learned_units(column), 1.0) | column.get("factors", {})
    if not units.any():
        return numbers * factors[""] if factors[""] != 1 else numbers
    converted: Floats = numbers * np.array([factors.get(unit, math.nan) for unit in units])
    return converted


def _learned_units(column: Column) -> list[str]:
    """Return the learned units in their current spelling."""
    return [normalize_unit(unit, "") for unit in column["units"]]


def warn_mixed_units(column: Column, cells: Cells) -> None:
    """Warn if the numbers of a column have several units, or only some have one."""
    name, units = column["name"], column["units"]
    if len(units) > 1:
        logger.warning(f"column {name} has several currencies ({join_names(units, 5)}), which are not converted")
    elif units:
        numbers, found = cells.quantities(column["decimal"])
        bare = sum(cells.counts[(found == "") & ~np.isnan(numbers)].tolist())
        if bare:
            values = count_noun(bare, "training value has", "training values have")
            logger.warning(f"column {name}: {values} no {units[0]}, which is assumed")


def adapt_units(column: Column, cells: Cells, what: str) -> dict[str, float]:
    """Compare the unit of a column in a file with that of the training rows, and warn if they differ.

    Returns:
        The factor to multiply numbers by, for each unit.

    Raises:
        ValueError: If the units differ, or one is absent and the numbers are far from the training range.
    """
    numbers, units = cells.quantities(column["decimal"])
    here, learned = find_units(numbers, units, cells.counts), _learned_units(column)
    if {*here} & {*learned} or here == learned or np.isnan(numbers).all():
        return {}
    if here and learned:
        before = join_names(learned, 3)
        raise ValueError(
            f"{what} is in {join_names(here, 3)}, but was in {before} in training: convert it, or remove the unit "
            "if both are the same"
        )
    unit, bare = (here or learned)[0], (here or [""])[0]
    factors = [{bare: 1.0}, {bare: 0.01 if here else 100.0}] if unit == "%" else [{bare: 1.0}]
    readings = [convert(numbers, units, column | {"factors": factor}) for factor in factors]
    best = 1 if len(readings) > 1 and misfit(readings[0], column) - misfit(readings[1], column) > MISFIT_MARGIN else 0
    position = int(np.flatnonzero(~np.isnan(readings[best]))[0])
    example, number = abbreviate(cells.values[position]), f"{readings[best][position]:.6g}"
    differs = f"is in {unit}, unlike in training" if here else f"has no {unit}, unlike in training"
    if is_far_outside(readings[best], column):
        raise ValueError(
            f"{what} {differs}, and values such as {example} are far from the training range, {format_range(column)}: "
            "convert them"
        )
    if best or not all(map(is_typed_number, cells.values)):
        read = number if here else f"{number}%" if unit == "%" else f"{number} {unit}"
        logger.warning(f"{what} {differs}: {example} is read as {read}")
    return factors[best]
