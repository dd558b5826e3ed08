"""The files that `test` and `predict` leave in a run folder."""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.loading import targets_of
from kindling.evaluation.report import write_report
from kindling.models import ClassificationTask, RegressionTask
from kindling.models.task import batch_size
from kindling.runs.folders import run_folder_of
from kindling.training import TestOutputCollector
from kindling.utils.console import progress
from kindling.utils.files import atomic_write


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
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
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


def save_predictions(
    checkpoint: Path, batches: Sequence[Any], model: LightningModule, data: LightningDataModule | None
) -> tuple[Path, int]:
    """Write the predictions of a checkpoint into its run folder.

    Args:
        checkpoint: The checkpoint.
        batches: What `predict_step` returned for each batch.
        model: The model.
        data: The source of the samples.

    Returns:
        The file, and the number of predictions: `predictions.csv` for one class or number a sample (of other samples
        than those of the test, named after them), else `predictions.pt`, which `torch.load` reads.
    """
    run, labels, name = run_folder_of(checkpoint), None, "predictions"
    if others := getattr(data, "predict", None) if isinstance(data, BaseDataModule) else None:
        name += f"_{Path(others).resolve().stem}"
    table = _as_table(batches, model, data)
    written = run / f"{name}.{'pt' if table is None else 'csv'}"
    with written_to(run):
        if table is None or not isinstance(data, BaseDataModule):
            with atomic_write(written) as path:
                torch.save(list(batches), path)
            return written, sum(map(batch_size, batches))
        if not others and (targets := targets_of(data.new)) is not None:
            labels = targets[: len(table)]
        names = model.class_names if isinstance(model, ClassificationTask) else ()
        write_predictions(written, data.predicted_rows(), data.row_header, table, names, labels)
    return written, len(table)


def _as_table(batches: Sequence[Any], model: LightningModule, data: LightningDataModule | None) -> Tensor | None:
    """Return probabilities (N, classes) or numbers (N,) of all batches; None for other predictions."""
    if not (isinstance(model, ClassificationTask | RegressionTask) and isinstance(data, BaseDataModule)):
        return None
    table = torch.cat(list(batches)).cpu()
    return table if table.ndim <= 2 else None


@rank_zero_only
def save_test_results(
    checkpoint: Path,
    metrics: Mapping[str, float],
    collected: TestOutputCollector,
    model: LightningModule,
    data: LightningDataModule | None,
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
        The path of the report, which a classifier has.

    Raises:
        OSError: If the folder can't be written to.
    """
    run = run_folder_of(checkpoint)
    figures = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    answers, labels = collected.outputs, collected.targets
    with written_to(run):
        with atomic_write(run / "test_metrics.json") as path:
            path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
        if answers is None or labels is None or not isinstance(data, BaseDataModule):
            return None
        names: Sequence[str] = model.class_names if isinstance(model, ClassificationTask) else ()
        said = answers.exp() if names else answers
        write_predictions(run / "predictions.csv", data.tested_rows(), data.row_header, said, names, labels)
        if isinstance(model, ClassificationTask):
            with progress("writing the report"):
                write_report(checkpoint, metrics, answers, labels, model, data, command)
            return run / "report.html"
    return None
