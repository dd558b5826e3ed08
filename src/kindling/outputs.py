"""The files that `test` and `predict` leave in a run folder."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from kindling.callbacks import CollectTest
from kindling.console import progress
from kindling.data import ClassificationDataModule
from kindling.models import Classifier
from kindling.parts import part
from kindling.runs import run_of, whole_file


def write_predictions(
    path: Path,
    rows: Sequence[object],
    row_header: str,
    probabilities: Tensor,
    class_names: Sequence[str],
    labels: Tensor | None = None,
) -> None:
    """Writes `predictions.csv`: row, label where it is known, prediction, its probability, those of all classes.

    The probability of a class that is called like another column is p(class). NaN is no prediction. Of a model that
    predicts numbers it holds row, label and prediction.

    Args:
        path: The file.
        rows: What each sample is called; those beyond the last prediction are left out.
        row_header: What the rows are.
        probabilities: Of each sample, shape (N, classes), or numbers, shape (N,).
        class_names: Names of the classes.
        labels: The true classes, shape (N,).
    """
    header, columns = [row_header], [rows[: len(probabilities)]]
    if probabilities.ndim == 1:
        header += ["label"] * (labels is not None) + ["prediction"]
        columns += [[f"{value:.6g}" for value in part.tolist()] for part in (labels, probabilities) if part is not None]
        return _write(path, header, columns)
    best, predictions = probabilities.max(dim=1)
    if labels is not None:
        header.append("label")
        columns.append([class_names[label] for label in labels.tolist()])
    named = zip(predictions.tolist(), best.isnan().tolist(), strict=True)
    columns.append(["" if none else class_names[prediction] for prediction, none in named])
    columns += ([f"{value:.6g}" for value in column] for column in (best.tolist(), *probabilities.T.tolist()))
    header += ["prediction", "probability"]
    taken = {row_header, "label", "prediction", "probability"}
    header += [f"p({name})" if name in taken else name for name in class_names]
    _write(path, header, columns)


def _write(path: Path, header: Sequence[str], columns: Sequence[Sequence[object]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(zip(*columns, strict=True))


def write_predicted(checkpoint: Path, probabilities: Tensor, model: Classifier, data: ClassificationDataModule) -> Path:
    """Writes what a checkpoint predicts, (N, classes) or numbers (N,), into its run folder.

    Returns:
        `predictions.csv`, or of other samples than those of the test, a file named after them.
    """
    run, labels = run_of(checkpoint), None
    run.mkdir(exist_ok=True)  # of a checkpoint outside of a run
    if others := getattr(data, "predict", None):
        written = run / f"predictions_{Path(others).resolve().stem}.csv"
    else:
        written, labels = run / "predictions.csv", data.new.labels[: len(probabilities)]
    write_predictions(written, data.predicted_rows(), data.row_header, probabilities, model.class_names, labels)
    return written


@rank_zero_only
def write_test(
    checkpoint: Path,
    metrics: Mapping[str, float],
    collected: CollectTest,
    model: Classifier,
    data: ClassificationDataModule,
    command: str,
) -> Path | None:
    """Writes `test_metrics.json`, `predictions.csv` and `report.html` into the run folder of a checkpoint.

    Args:
        checkpoint: What was tested.
        metrics: Figures of the test by name; NaN is null in the file.
        collected: What the model said.
        model: The model that was tested.
        data: The source of the samples.
        command: What was typed.

    Returns:
        The path of the report, where this project writes one; of a model that predicts numbers there is none.
    """
    run = run_of(checkpoint)
    run.mkdir(exist_ok=True)  # of a checkpoint outside of a run
    figures = {name: round(value, 6) if math.isfinite(value) else None for name, value in metrics.items()}
    with whole_file(run / "test_metrics.json") as path:
        path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    answers, labels = collected.answers, collected.labels
    said = answers.exp() if model.classifies else answers
    write_predictions(run / "predictions.csv", data.tested_rows(), data.row_header, said, model.class_names, labels)
    if model.classifies and (report := part("report")):
        with progress("writing the report"):
            report.write_report(checkpoint, metrics, answers, labels, model, data, command)
        return run / "report.html"
    return None
