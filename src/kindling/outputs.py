"""The files that `test` and `predict` leave in a run folder."""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from kindling.callbacks import CollectTest
from kindling.console import progress
from kindling.data import ClassificationDataModule
from kindling.models import Classifier
from kindling.report import write_report
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


def is_writable(run: Path) -> bool:
    """Return whether files can be written to a run folder, or to the folder in which it would be made."""
    return os.access(run if run.exists() else run.parent, os.W_OK)


def not_written(run: Path, reason: str) -> OSError:
    """Return the error that nothing can be written to a run folder, with the way out."""
    return OSError(f"can't write to {run} ({reason}): copy it to a folder that can be written, and use the copy")


@contextmanager
def written_to(run: Path) -> Iterator[None]:
    """Make a run folder where there is none, and name it in an error of writing to it."""
    try:
        run.mkdir(exist_ok=True)  # of a checkpoint outside of a run
        yield
    except OSError as error:
        raise not_written(run, error.strerror or str(error)) from error


def write_predicted(checkpoint: Path, probabilities: Tensor, model: Classifier, data: ClassificationDataModule) -> Path:
    """Writes what a checkpoint predicts, (N, classes) or numbers (N,), into its run folder.

    Returns:
        `predictions.csv`, or of other samples than those of the test, a file named after them.
    """
    run, labels = run_of(checkpoint), None
    if others := getattr(data, "predict", None):
        written = run / f"predictions_{Path(others).resolve().stem}.csv"
    else:
        written, labels = run / "predictions.csv", data.new.labels[: len(probabilities)]
    with written_to(run):
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
        The path of the report; None for a model that predicts numbers.

    Raises:
        OSError: If the folder can't be written to.
    """
    run = run_of(checkpoint)
    figures = {name: round(value, 6) if math.isfinite(value) else None for name, value in metrics.items()}
    answers, labels = collected.answers, collected.labels
    said = answers.exp() if model.classifies else answers
    with written_to(run):
        with whole_file(run / "test_metrics.json") as path:
            path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
        write_predictions(run / "predictions.csv", data.tested_rows(), data.row_header, said, model.class_names, labels)
        if model.classifies:
            with progress("writing the report"):
                write_report(checkpoint, metrics, answers, labels, model, data, command)
            return run / "report.html"
    return None
