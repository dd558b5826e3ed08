"""Folds for cross-validation: each sample is tested in one of them."""

import re
import warnings

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Indices
from kindling.data.split_constraints import SplitConstraints
from kindling.data.splitting import draw_splits


def draw_fold(
    labels: Indices, fold: str, val_size: int | float, seed: int, constraints: SplitConstraints, are_classes: bool
) -> NDArray[np.object_]:
    """Return the split of each sample, (N,), with one fold for testing; validation samples come from the others.

    Args:
        labels: As for `draw_splits`.
        fold: Which fold, from 1, of how many: "1/5".
        val_size: Size of the validation split, as for `draw_splits`.
        seed: Seed of the folds and of the validation split.
        constraints: Groups, which stay together; times can't be split into folds.
        are_classes: Whether labels are classes.

    Raises:
        ValueError: If the samples can't be divided into so many folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes half a second to import

    number, count = parse_fold(fold)
    noun = constraints.noun
    if constraints.times:
        raise ValueError(f"--data.fold {fold} would test on {noun} older than training {noun}: leave out --data.time")
    samples = np.flatnonzero(labels >= 0)
    groups = constraints.groups.codes[samples] if constraints.groups else None
    distinct = len(samples if groups is None else np.unique(groups))
    if distinct < count:
        raise ValueError(f"{count} folds need at least {count} {noun if groups is None else 'groups'}, got {distinct}")
    strata = labels[samples]
    if (most := np.bincount(strata).max()) < count:
        if are_classes:
            raise ValueError(f"{count} folds need a class with at least {count} {noun}, but the largest has {most}")
        strata = np.zeros_like(strata)  # ranges of numbers are too small
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # then it is missing in some folds
        tested = samples[[*splitter.split(samples, strata, groups)][number - 1][1]]
    rest = labels.copy()
    rest[tested] = -1
    if are_classes and len(missing := np.setdiff1d(labels[tested], rest)):
        place = constraints.place(int(tested[labels[tested] == missing[0]][0]))
        others = " or other groups" if constraints else ""
        raise ValueError(
            f"--data.fold {fold} tests on all {noun} of a class (that of {place}), so that none is left to train on: "
            f"use fewer folds{others}, or remove the class"
        )
    splits = draw_splits(rest, {"val": val_size}, seed, constraints, are_classes)
    splits[tested] = "test"
    return splits


def parse_fold(fold: str) -> tuple[int, int]:
    """Return the number of a fold and how many there are.

    Raises:
        ValueError: If the text is not of the form 1/5.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", fold)
    if not found or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
        raise ValueError(f"`fold` must be a fold and the number of folds, such as 1/5, got {fold}")
    return int(found[1]), int(found[2])


def check_fold(fold: str, noun: str, **given: object) -> None:
    """Raise ValueError if a fold is invalid, or another option is given that defines the test samples, too."""
    parse_fold(fold)
    if others := [option for option, value in given.items() if value is not None]:
        raise ValueError(f"`fold` {fold} and `{others[0]}` both define the test {noun}")
