"""Predictions as CSV files."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from kindling.evaluation.label_errors import LabelErrors
from kindling.evaluation.multilabel import names_of_classes
from kindling.models.many_classes import MANY_CLASSES, TopClasses
from kindling.utils.decision_threshold import THRESHOLD, DecisionThreshold, predicted_classes
from kindling.utils.files import atomic_write

Keys = Mapping[str, Sequence[object]]  # values (N,) by name
RESERVED = re.compile(
    "label|target|prediction|fold|given|suggested|sure|class_[1-9]|probability(_[1-9])?"
)  # columns of predictions.csv


def write_predictions(
    path: Path,
    rows: Sequence[object],
    row_header: str,
    probabilities: Tensor | TopClasses,
    class_names: Sequence[str],
    labels: Tensor | None = None,
    threshold: DecisionThreshold | None = None,
    keys: Keys = MappingProxyType({}),
) -> None:
    """Write `predictions.csv`.

    Its columns are row, keys, label if known, prediction, probability of the prediction, and the probability of each
    class; for regression, row, keys, target and prediction. If a class has the name of another column, its column is
    `p(<class>)`. Of very many classes, the most probable ones are in the columns `class_1`, `probability_1`, `class_2`
    and so on. NaN is no prediction, and its fields are empty.

    Args:
        path: The file.
        rows: Names of the samples; those after the last prediction are left out.
        row_header: Header of the column of names.
        probabilities: Probabilities (N, classes), or those of the most probable classes; or predicted values (N,).
        class_names: Names of the classes.
        labels: True classes or values, shape (N,).
        threshold: Decision threshold of two classes.
        keys: Further columns that identify the samples, by name.
    """
    known = probabilities.probabilities if isinstance(probabilities, TopClasses) else probabilities
    header, columns = _first_columns(rows, row_header, keys, len(known))
    if known.ndim == 1:
        header += ["target"] * (labels is not None) + ["prediction"]
        parts = [part.float().numpy() for part in (labels, known) if part is not None]
        columns += [
            ["" if np.isnan(value) else np.format_float_positional(value, trim="-") for value in part] for part in parts
        ]
        return _write(path, header, columns)
    if labels is not None:
        header.append("label")
        columns.append([class_names[label] for label in labels.tolist()])
    if isinstance(probabilities, TopClasses):
        predictions, best = probabilities.classes[:, 0], known[:, 0]
    else:
        predictions = predicted_classes(known, threshold)
        best = known.gather(1, predictions.unsqueeze(1)).squeeze(1)
    columns += [_names(predictions, best, class_names), _format(best)]
    header += ["prediction", "probability"]
    _add_classes(header, columns, probabilities, class_names)
    _write(path, header, columns)


def write_multilabel_predictions(
    path: Path,
    rows: Sequence[object],
    row_header: str,
    probabilities: Tensor,
    class_names: Sequence[str],
    targets: Tensor | None,
    keys: Keys,
    all_classes: bool,
) -> None:
    """Write `predictions.csv` for several classes per sample.

    Its columns are row, label if known, prediction, and the probability of each class, or, unless `all_classes` are
    wanted, those of the most probable of very many. Several classes are separated by `|`; see `write_predictions` for
    the other arguments. `targets` are 1 for each class of a sample, (N, classes).
    """
    header, columns = _first_columns(rows, row_header, keys, len(probabilities))
    if targets is not None:
        header.append("label")
        columns.append(names_of_classes(targets.bool(), class_names, "|"))
    header.append("prediction")
    columns.append(names_of_classes(probabilities >= THRESHOLD, class_names, "|"))
    is_short = len(class_names) > MANY_CLASSES and not all_classes
    _add_classes(header, columns, TopClasses.of(probabilities) if is_short else probabilities, class_names)
    _write(path, header, columns)


def write_label_errors(
    path: Path,
    rows: Sequence[object],
    row_header: str,
    errors: LabelErrors,
    labels: Tensor,
    class_names: Sequence[str],
    keys: Keys,
) -> None:
    """Write `label_errors.csv`: row, keys, given label, suggested label, probability of the given one, `sure`.

    Several classes are separated by `|`. Labels are (N,), or 1 for each class of a sample, (N, classes); see
    `write_predictions` for the other arguments.
    """
    found = errors.rows.tolist()
    of_found = {name: [values[row] for row in found] for name, values in keys.items()}
    header, columns = _first_columns([rows[row] for row in found], row_header, of_found, len(found))
    pair = (labels[errors.rows], errors.suggested)
    columns += [label_texts(each, class_names, "|") for each in pair]
    header += ["given", "suggested", "probability", "sure"]
    _write(path, header, [*columns, _format(errors.probabilities), errors.sure.tolist()])


def label_texts(labels: Tensor, class_names: Sequence[str], separator: str = ", ") -> list[str]:
    """Return the name of each class (n,), or the names of the classes of each sample (n, classes)."""
    if labels.ndim > 1:
        return names_of_classes(labels.bool(), class_names, separator)
    return [class_names[label] for label in labels.tolist()]


def _add_classes(
    header: list[str], columns: list[Sequence[object]], probabilities: Tensor | TopClasses, class_names: Sequence[str]
) -> None:
    """Add the probability of each class, or the most probable classes, in place."""
    if not isinstance(probabilities, TopClasses):
        taken = {*header, "label"}
        header += [f"p({name})" if name in taken else name for name in class_names]
        columns += map(_format, probabilities.T)
        return
    for place, (classes, values) in enumerate(zip(probabilities.classes.T, probabilities.probabilities.T, strict=True)):
        header += [f"class_{place + 1}", f"probability_{place + 1}"]
        columns += [_names(classes, values, class_names), _format(values)]


def _names(classes: Tensor, probabilities: Tensor, class_names: Sequence[str]) -> list[str]:
    """Return the names of classes (N,), empty where the probability (N,) is NaN."""
    pairs = zip(classes.tolist(), probabilities.isnan().tolist(), strict=True)
    return ["" if is_nan else class_names[label] for label, is_nan in pairs]


def _first_columns(
    rows: Sequence[object], row_header: str, keys: Keys, number: int
) -> tuple[list[str], list[Sequence[object]]]:
    """Return the header and the columns that identify samples; a key with the name of another column is renamed."""
    names = [f"{name} (data)" if name == row_header or RESERVED.fullmatch(name) else name for name in keys]
    return [row_header, *names], [rows[:number], *(values[:number] for values in keys.values())]


def _format(probabilities: Tensor) -> list[str]:
    """Return probabilities (N,) as text, empty for NaN."""
    return ["" if math.isnan(value) else f"{value:.6g}" for value in probabilities.tolist()]


def _write(path: Path, header: Sequence[str], columns: Sequence[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(zip(*columns, strict=True))


def add_unreadable(table: Tensor, rows: Sequence[object], unreadable: Sequence[int]) -> Tensor:
    """Return predictions with NaN for the rows that can't be read; those after the last prediction are left out."""
    read = np.setdiff1d(np.arange(len(rows)), unreadable)
    end = len(rows) if len(table) == len(read) else read[len(table)]
    complete = table.new_full((int(end), *table.shape[1:]), math.nan if table.is_floating_point() else 0)
    complete[torch.from_numpy(read[: len(table)])] = table
    return complete
