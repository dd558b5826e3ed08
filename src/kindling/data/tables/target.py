"""The column of a table that holds the classes: what it must be to be learned, and what is odd about it."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.cells import read_names
from kindling.data.tables.quantities import as_number
from kindling.data.tables.values import MISSING_WORD, Indices, in_order, missing_option
from kindling.utils.text import join_names

if TYPE_CHECKING:
    from pandas import Series

MOST_CLASSES = 1000
MANY_CLASSES = 20  # more may be a column of something else


def check_classes(labels: Indices, names: Sequence[str], what: str, held_out: Collection[str], given: bool) -> None:
    """Refuses a target that is no class, or has classes that can't be learned.

    Args:
        labels: Place of the class of each row in `names`, -1 where it has none.
        names: Names of the classes.
        what: What the column is called in messages.
        held_out: The splits that are made beside the one for training.
        given: Whether these splits are given.

    Raises:
        ValueError: If it is one.
    """
    if len(names) < 2:
        raise ValueError(
            f"{what} has {f'only one class ({names[0]})' if names else 'no values'}; a classifier needs at least two"
        )
    counts = np.bincount(labels[labels >= 0]).tolist()
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < 1 + len(held_out)]
    numbers = [as_number(name) for name in names]
    measured = not any(map(math.isnan, numbers)) and any(number % 1 for number in numbers)
    if len(names) > MOST_CLASSES or (len(names) > MANY_CLASSES and (measured or 2 * len(few) > len(names))):
        raise ValueError(
            f"{what} has {len(names):,} different values, which looks like a regression target, not classes: see the "
            "guide to regression in docs/your-own.md"
        )
    if few and not given:
        raise ValueError(
            f"training, {' and '.join(held_out)} each need a row of every class, and {what} has too few of "
            f"{join_names(in_order(few))}: leave these rows out, merge classes, or split the rows with --data.split"
        )


def odd_classes(
    column: "Series", splits: NDArray[np.object_], held_out: Collection[str], what: str, missing: Collection[str]
) -> Iterator[str]:
    """Yield what is odd about the classes but no obstacle, a line each."""
    names = {split: set(read_names(column[splits == split], missing)[1]) for split in ("train", *held_out)}
    if words := [name for name in in_order(names["train"]) if MISSING_WORD.fullmatch(name)]:
        yield f"{what} has the class {join_names(words)}: if that means missing, {missing_option([*missing, *words])}"
    for split in held_out:
        if lacking := names["train"] - names[split]:
            yield f"{split} has no rows of {join_names(in_order(lacking))}"
    spellings = Counter(name.lower() for name in names["train"])
    if alike := [name for name in in_order(names["train"]) if spellings[name.lower()] > 1]:
        same = join_names(alike)
        yield f"{what} has classes that differ only in capitals: {same}: if they are the same, spell them the same"
