"""The files that `test` and `predict` leave in a run folder."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from kindling.callbacks import CollectTest
from kindling.data import ClassificationDataModule
from kindling.models import Classifier
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

    Args:
        path: The file.
        rows: What each sample is called; those beyond the last prediction are left out.
        row_header: What the rows are.
        probabilities: Of each sample, shape (N, classes).
        class_names: Names of the classes.
        labels: The true classes, shape (N,).
    """
    best, predictions = probabilities.max(dim=1)
    columns: list[Sequence[object]] = [rows[: len(probabilities)]]
    if labels is not None:
        columns.append([class_names[label] for label in labels.tolist()])
    columns.append([class_names[prediction] for prediction in predictions.tolist()])
    numbers = ([f"{value:.6g}" for value in column] for column in (best.tolist(), *probabilities.T.tolist()))
    header = [row_header, *["label"] * (labels is not None), "prediction", "probability", *class_names]
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(zip(*columns, *numbers, strict=True))


@rank_zero_only
def write_test(
    checkpoint: Path,
    metrics: Mapping[str, float],
    collected: CollectTest,
    model: Classifier,
    data: ClassificationDataModule,
) -> Path:
    """Writes `test_metrics.json`, `predictions.csv` and `report.html` into the run folder of a checkpoint.

    Returns:
        The path of the report.
    """
    from kindling.report import write_report  # after a test alone

    run = run_of(checkpoint)
    with whole_file(run / "test_metrics.json") as path:
        path.write_text(json.dumps({name: round(value, 6) for name, value in metrics.items()}, indent=2) + "\n")
    probabilities, labels = collected.probabilities, collected.labels
    write_predictions(
        run / "predictions.csv", data.tested_rows(), data.row_header, probabilities, model.class_names, labels
    )
    return write_report(checkpoint, metrics, probabilities, labels, model, data)
