"""Encoding of categories: one-hot for frequent ones, and target encoding for columns with many.

Target encoding replaces a category by the mean of the target among its training rows, shrunk towards the mean of all
rows (empirical Bayes: the less the categories differ, the more). The target is one column of scaled numbers, or one
indicator (0 or 1) for each class, whose mean is the fraction of the class. Training rows are encoded out of fold, so
that their own targets do not leak into their features.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.array_types import Floats, Indices
from kindling.data.tables.target_sums import TargetSums, are_classes, differ, sum_targets, variances
from kindling.data.tables.values import Targets, sort_names
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

MAX_ONE_HOT = 50  # categories; a column with more is target-encoded, and one-hot only for the frequent ones
MIN_CATEGORY_ROWS = 10  # training rows of a category with a one-hot feature in such a column
MAX_FEATURES = 500  # one-hot features of such a column; fewer if there are many rows, see MAX_FLOATS
MAX_FLOATS = 5_000_000  # values of these features in all rows
MAX_STORED_NUMBERS = 200_000  # in the encodings of a column, 4 MB of a checkpoint
FOLDS = 5
MAX_NUMERIC_VALUES = 20  # distinct numbers up to which a column is never treated as codes
UNSEEN_FRACTION = 0.95  # of rows with unseen categories from which a column counts as another one than in training
MIN_UNSEEN_ROWS = 20  # of such rows, since fewer may be chance

UNRELATED = "many rare categories, unrelated to the target"


def learn_categories(name: str, codes: Indices, names: Sequence[str], targets: Targets) -> dict[str, Any]:
    """Learn the encoding of a categorical column from codes (N,), -1 where missing, and targets (N,) of training rows.

    Returns:
        The state for `encode_categories`, as plain values; empty if the categories are rare and uninformative.
    """
    if len(names) <= MAX_ONE_HOT:
        return {"values": sort_names(names)}
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    most_frequent = _largest(counts, _max_features(len(targets)))
    frequent = most_frequent[counts[most_frequent] >= MIN_CATEGORY_ROWS].tolist()
    target = learn_target(name, codes, names, targets)
    if not frequent and "encodings" not in target:
        return {}
    return {"values": sort_names(names[position] for position in frequent)} | target


def learn_target(name: str, codes: Indices, names: Sequence[str], targets: Targets) -> dict[str, Any]:
    """Learn the mean of each target column per category; without `encodings` if the categories do not differ."""
    totals = sum_targets(np.zeros(len(targets), dtype=np.int64), targets, 1).sums[0]
    classes = _largest(totals, _max_features(len(targets))) if len(totals) > 2 else np.array([len(totals) - 1])
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    kept = _largest(counts, MAX_STORED_NUMBERS // len(classes))
    if rare := int(counts.sum() - counts[kept].sum()):
        others = count_noun(rare, "row has", "rows have")
        logger.warning(f"column {name}: {others} none of the {len(kept):,} most frequent categories")
    positions = np.full(len(names) + 1, -1)
    positions[kept] = np.arange(len(kept))
    table = sum_targets(positions[codes], targets, len(kept), len(totals))
    learned = {"known": [names[position] for position in kept], "classes": classes.tolist()}
    within, between, rows = variances(table)
    if not differ(within, between, len(kept)):
        return learned
    learned |= {"prior": (totals[classes] / len(targets)).tolist(), "smoothing": rows * within / (between - within)}
    return learned | {"encodings": _shrunk_means(table, learned).round(6).tolist()}


def are_codes(values: Floats, targets: Targets) -> bool:
    """Return whether numbers (N,) are codes, such as postcodes: related to the target, unlike neighboring numbers."""
    if (values % 1).any():
        return False
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(counts) <= MAX_NUMERIC_VALUES or is_text(counts):
        return False
    table = sum_targets(codes, targets, len(counts))
    within, between, rows = variances(table)
    if not differ(within, between, len(counts)):
        return False
    deviations = table.sums / counts[:, None] - table.sums.sum(axis=0) / len(values)
    weights = np.sqrt(counts[1:] * counts[:-1])
    neighbor_covariance = float((weights[:, None] * deviations[1:] * deviations[:-1]).sum() / weights.sum())
    error = between / rows / np.sqrt(len(counts))
    return bool(neighbor_covariance + error < (between - within) / rows / 2)


def is_text(counts: Indices) -> bool:
    """Return whether most categories occur in one row only, as in names and free text."""
    distinct, rows = len(counts), counts.sum()
    if distinct <= MAX_ONE_HOT:
        return bool(distinct > 2 and 2 * distinct > rows)
    return bool(2 * np.count_nonzero(counts == 1) > rows)


def encode_categories(
    codes: Indices, names: Sequence[str], column: Mapping[str, Any], features: NDArray[np.float32]
) -> None:
    """Write categories one-hot, or two categories as -1 and 1, into zeros (N, F); unseen ones stay 0."""
    positions = _find(names, column["values"])[codes]
    rows = np.flatnonzero(positions >= 0)
    if len(column["values"]) == 2:
        features[rows, 0] = 2.0 * positions[rows] - 1
    else:
        features[rows, positions[rows]] = 1


def encode_target(
    codes: Indices, names: Sequence[str], column: Mapping[str, Any], targets: Targets | None = None
) -> NDArray[np.float32]:
    """Encode categories by the means of the target in the training rows, shape (N, F).

    `targets` (N,) are those of training rows, which are encoded out of fold, and -1 or NaN elsewhere.
    """
    positions, encodings, prior = _find(names, column["known"]), column["encodings"], column["prior"]
    encoded = [encodings[position] if position >= 0 else prior for position in positions.tolist()]
    features = np.array(encoded, dtype=np.float32)[codes]
    if targets is not None:
        known = targets >= 0 if are_classes(targets) else ~np.isnan(targets)
        trained = np.flatnonzero(known & (positions[codes] >= 0))
        features[trained] = _out_of_fold(positions[codes[trained]], targets[trained], column)
    return features


def check_unseen(codes: Indices, names: Sequence[str], column: Mapping[str, Any], what: str, is_only: bool) -> None:
    """Warn about rows with a category that was not seen in training.

    Raises:
        ValueError: If nearly all are unseen and the column has few categories or is the only one.
    """
    known = column.get("known", column.get("values", ()))
    unseen_names = _find(names, known) < 0
    unseen, present = np.count_nonzero(unseen_names[codes] & (codes >= 0)), np.count_nonzero(codes >= 0)
    if not unseen:
        return
    are_all = "known" not in column or len(known) < MAX_STORED_NUMBERS // len(column["classes"])
    rare = "" if are_all else "rare or "
    examples = join_names([names[position] for position in np.flatnonzero(unseen_names[:-1])[:3].tolist()])
    rows = count_noun(int(present), "row has", "rows have")
    message = f"{what}: {unseen:,} of {rows} a value {rare}unseen in training, such as {examples}"
    if unseen < max(MIN_UNSEEN_ROWS, UNSEEN_FRACTION * present):
        logger.warning(message)
    elif column["kind"] == "category" and (is_only or len(known) < MAX_ONE_HOT):
        raise ValueError(f"{message}; the model knows {join_names(known, 10)}")
    else:
        logger.warning(f"{message}; they are encoded without a category")


def _find(names: Sequence[str], known: Sequence[str]) -> Indices:
    """Return the index of each name in `known`, -1 if it is not there, and a last -1 for missing values."""
    wanted = set(names)
    index = {name: number for number, name in enumerate(known) if name in wanted}
    return np.array([*(index.get(name, -1) for name in names), -1])


def _max_features(rows: int) -> int:
    """Return the maximum number of features of a column with many categories."""
    return max(MAX_ONE_HOT, min(MAX_FEATURES, MAX_FLOATS // rows))


def _largest(counts: Indices, number: int) -> Indices:
    """Return the indices of the largest counts, sorted."""
    return np.sort(np.argsort(-counts, kind="stable")[:number])


def _shrunk_means(table: TargetSums, learned: Mapping[str, Any]) -> Floats:
    """Return the shrunk mean of each encoded target column per category; an empty category has that of all rows."""
    prior, smoothing = np.array(learned["prior"]), max(learned["smoothing"], 1e-6)
    means: Floats = (table.sums[:, learned["classes"]] + smoothing * prior) / (table.counts + smoothing)
    return means


def _out_of_fold(codes: Indices, targets: Targets, column: Mapping[str, Any]) -> Floats:
    """Return the encodings of training rows, each from the rows of the other folds."""
    # RandomState is frozen across NumPy versions, so the folds are the same wherever training resumes.
    folds = np.random.RandomState(0).permutation(len(codes)) % FOLDS
    categories, columns = len(column["known"]), max(column["classes"]) + 1
    if are_classes(targets):
        columns = max(columns, int(targets.max(initial=0)) + 1)
    encoded = np.empty((len(codes), len(column["classes"])))
    for fold in range(FOLDS):
        rows = folds == fold
        others = sum_targets(codes[~rows], targets[~rows], categories, columns)
        encoded[rows] = _shrunk_means(others, column)[codes[rows]]
    return encoded
