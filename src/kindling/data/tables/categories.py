"""Categories of a column as features: one-hot where they are frequent, and target encoding where there are many.

Target encoding replaces a category by the share of each class among its training rows, shrunk towards the share in all
rows; by empirical Bayes, the less categories differ, the more. Training rows are encoded out of fold, from the other
rows alone: their own labels must not be among their features.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.values import Floats, Indices, in_order
from kindling.utils.text import count_noun, join_names

logger = logging.getLogger(__name__)

MOST_CATEGORIES = 50  # one-hot whatever their frequency; a column that has more is target-encoded too
LEAST_ROWS = 10  # of a category of such a column to have a feature of its own
MOST_FEATURES = 500  # of such a column, fewer where these would take more than
MOST_FLOATS = 5_000_000  # in all rows
MOST_STORED = 200_000  # numbers in the encodings of a column, 4 MB of a checkpoint
FOLDS = 5
MANY_CODES = 20  # different numbers; fewer are told apart as numbers
WRONG_SHARE = 0.95  # of the categories are unseen where a column is another one than in training,
LEAST_UNSEEN = 20  # but with fewer rows that may be chance

UNRELATED = "many rare categories, unrelated to the class"


def learn_categories(name: str, codes: Indices, names: Sequence[str], labels: Indices) -> dict[str, Any]:
    """Learn the encoding of a column of categories.

    Args:
        name: Name of the column, for messages.
        codes: Index into `names` for each training row, -1 where missing, shape (N,).
        names: The categories.
        labels: Class of each training row, shape (N,).

    Returns:
        What `encode_categories` needs, as plain values; nothing where the categories are rare and tell nothing.
    """
    if len(names) <= MOST_CATEGORIES:
        return {"values": in_order(names)}
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    frequent = [place for place in _largest(counts, _affordable(len(labels))) if counts[place] >= LEAST_ROWS]
    target = learn_target(name, codes, names, labels)
    if not frequent and "encodings" not in target:
        return {}
    return {"values": in_order(names[place] for place in frequent)} | target


def learn_target(name: str, codes: Indices, names: Sequence[str], labels: Indices) -> dict[str, Any]:
    """Learn the shares of the classes in each category; there are no `encodings` where they do not differ."""
    totals = np.bincount(labels)
    classes = _largest(totals, _affordable(len(labels))) if len(totals) > 2 else np.array([1])
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    kept = _largest(counts, MOST_STORED // len(classes))
    if rare := int(counts.sum() - counts[kept].sum()):
        others = count_noun(rare, "row has", "rows have")
        logger.warning(f"column {name}: {others} none of the {len(kept):,} most frequent categories")
    places = np.full(len(names) + 1, -1)
    places[kept] = np.arange(len(kept))
    table = _count(places[codes], labels, (len(kept), len(totals)))
    learned = {"known": [names[place] for place in kept], "classes": classes.tolist()}
    within, between, rows = _variances(table)
    if not _differ(within, between, len(kept)):
        return learned
    learned |= {"prior": (totals[classes] / len(labels)).tolist(), "smoothing": rows * within / (between - within)}
    return learned | {"encodings": _shares(table, learned).round(6).tolist()}


def are_codes(values: Floats, labels: Indices) -> bool:
    """Whether numbers are codes, such as postcodes: they tell the class, but not better from their neighbours.

    Args:
        values: The numbers of the training rows that have one, shape (N,).
        labels: Class of each of these rows, shape (N,).
    """
    if (values % 1).any():
        return False
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(counts) <= MANY_CODES or is_text(counts):
        return False
    table = _count(codes, labels, (len(counts), int(labels.max()) + 1))
    within, between, rows = _variances(table)
    if not _differ(within, between, len(counts)):
        return False
    deviations = table / counts[:, None] - table.sum(axis=0) / len(values)
    weights = np.sqrt(counts[1:] * counts[:-1])
    shared = float((weights[:, None] * deviations[1:] * deviations[:-1]).sum() / weights.sum())  # by neighbours
    error = between / rows / np.sqrt(len(counts))
    return bool(shared + error < (between - within) / rows / 2)


def is_text(counts: Indices) -> bool:
    """Whether so many categories are in one row alone that they are rather names or texts."""
    distinct, rows = len(counts), counts.sum()
    if distinct <= MOST_CATEGORIES:
        return bool(distinct > 2 and 2 * distinct > rows)
    return bool(2 * np.count_nonzero(counts == 1) > rows)


def encode_categories(
    codes: Indices, names: Sequence[str], column: Mapping[str, Any], features: NDArray[np.float32]
) -> None:
    """Encode categories one-hot, or two as -1 and 1; any other is 0.

    Args:
        codes: Index into `names` for each row, -1 where missing, shape (N,).
        names: The categories of these rows.
        column: What was learned of the column.
        features: Where to put them, zeros of shape (N, F).
    """
    places = _find(names, column["values"])[codes]
    rows = np.flatnonzero(places >= 0)
    if len(column["values"]) == 2:
        features[rows, 0] = 2.0 * places[rows] - 1
    else:
        features[rows, places[rows]] = 1


def encode_target(
    codes: Indices, names: Sequence[str], column: Mapping[str, Any], labels: Indices | None = None
) -> NDArray[np.float32]:
    """Encode categories by the shares of the classes in the training rows, shape (N, F).

    Args:
        codes: Index into `names` for each row, -1 where missing, shape (N,).
        names: The categories of these rows.
        column: What was learned of the column.
        labels: Class of each row that was trained on, -1 elsewhere, shape (N,); None if none was.
    """
    places, encodings, prior = _find(names, column["known"]), column["encodings"], column["prior"]
    shares = [encodings[place] if place >= 0 else prior for place in places.tolist()]
    features = np.array(shares, dtype=np.float32)[codes]
    if labels is not None:
        trained = np.flatnonzero((labels >= 0) & (places[codes] >= 0))
        features[trained] = _out_of_fold(places[codes[trained]], labels[trained], column)
    return features


def check_unseen(codes: Indices, names: Sequence[str], column: Mapping[str, Any], what: str, alone: bool) -> None:
    """Report the rows with a category that is not known from training.

    Args:
        codes: Index into `names` for each row, -1 where missing, shape (N,).
        names: The categories of these rows.
        column: What was learned of the column.
        what: The column and its file, for messages.
        alone: Whether the model has no other column.

    Raises:
        ValueError: If nearly all are unknown, where a column has few categories or is the only one.
    """
    known = column.get("known", column.get("values", ()))
    strange = _find(names, known) < 0
    unseen, given = np.count_nonzero(strange[codes] & (codes >= 0)), np.count_nonzero(codes >= 0)
    if not unseen:
        return
    many = len(known) >= MOST_CATEGORIES
    all_known = "known" in column and len(known) < MOST_STORED // len(column["classes"])
    rare = "rare or " if many and not all_known else ""
    examples = join_names([names[place] for place in np.flatnonzero(strange[:-1])[:3].tolist()])
    rows = count_noun(int(given), "row has", "rows have")
    message = f"{what}: {unseen:,} of {rows} a value {rare}unseen in training, such as {examples}"
    if unseen < max(LEAST_UNSEEN, WRONG_SHARE * given):
        logger.warning(message)
    elif column["kind"] == "category" and (alone or not many):
        raise ValueError(f"{message}; it must hold {join_names(known, 10)}")
    else:
        logger.warning(f"{message}: for these rows it tells nothing")


def _find(names: Sequence[str], known: Sequence[str]) -> Indices:
    """Return the index of each name among the known ones, -1 where it is none of them; and -1 at last."""
    wanted = set(names)
    index = {name: number for number, name in enumerate(known) if name in wanted}
    return np.array([*(index.get(name, -1) for name in names), -1])


def _affordable(rows: int) -> int:
    """Return how many features a column of many categories may have."""
    return max(MOST_CATEGORIES, min(MOST_FEATURES, MOST_FLOATS // rows))


def _largest(counts: Indices, most: int) -> Indices:
    """Return the indices of the largest counts, sorted."""
    return np.sort(np.argsort(-counts, kind="stable")[:most])


def _count(codes: Indices, labels: Indices, shape: tuple[int, int]) -> Indices:
    """Count the rows of each category and class, as an array of that shape."""
    pairs = (codes * shape[1] + labels)[codes >= 0]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def _variances(table: Indices) -> tuple[float, float, float]:
    """Return the mean squares within and between categories, as in ANOVA, and the typical rows of a category."""
    counts, rows = table.sum(axis=1, keepdims=True), table.sum()
    explained = (table**2 / counts).sum()
    within = (rows - explained) / max(1, rows - len(table))
    between = (explained - (table.sum(axis=0) ** 2 / rows).sum()) / (len(table) - 1)
    return float(within), float(between), float((rows - (counts**2).sum() / rows) / (len(table) - 1))


def _differ(within: float, between: float, categories: int) -> bool:
    """Whether categories differ in their classes by more than two standard errors of the F statistic."""
    return between > within * (1 + 2 * math.sqrt(2 / categories))


def _shares(table: Indices, learned: Mapping[str, Any]) -> Floats:
    """Return the shrunk shares of the encoded classes by category; without any rows they are those of all rows."""
    prior, smoothing = np.array(learned["prior"]), max(learned["smoothing"], 1e-6)
    shares: Floats = (table[:, learned["classes"]] + smoothing * prior) / (table.sum(axis=1, keepdims=True) + smoothing)
    return shares


def _out_of_fold(codes: Indices, labels: Indices, column: Mapping[str, Any]) -> Floats:
    """Return the encodings of training rows, each computed from the rows of the other folds."""
    # NumPy promises never to change the numbers of RandomState: the folds are the same wherever training resumes.
    folds = np.random.RandomState(0).permutation(len(codes)) % FOLDS
    shape = (len(column["known"]), max(max(column["classes"]), int(labels.max(initial=0))) + 1)
    table, shares = _count(codes, labels, shape), np.empty((len(codes), len(column["classes"])))
    for fold in range(FOLDS):
        rows = folds == fold
        shares[rows] = _shares(table - _count(codes[rows], labels[rows], shape), column)[codes[rows]]
    return shares
