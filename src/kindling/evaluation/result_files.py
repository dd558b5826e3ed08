"""The files that `test` and `predict` write into a run folder."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.datasets import targets_of
from kindling.evaluation.predictions_csv import Keys, add_unreadable, write_multilabel_predictions, write_predictions
from kindling.evaluation.report import write_report
from kindling.models import ClassificationTask, MultiLabelTask, RegressionTask
from kindling.models.batches import batch_size
from kindling.models.many_classes import TopClasses
from kindling.runs.folders import MAX_NAME_BYTES, run_folder_of
from kindling.training import TestOutputCollector
from kindling.utils.console import progress
from kindling.utils.files import atomic_write, write_json
from kindling.utils.text import join_names


def is_writable(run: Path) -> bool:
    """Return whether files can be written to a run folder, or to its parent if it does not exist."""
    return os.access(run if run.exists() else run.parent, os.W_OK)


def not_written(run: Path, reason: str) -> OSError:
    """Return the error for a run folder that can't be written to."""
    return OSError(f"can't write to {run} ({reason}): copy it to a folder that can be written, and use the copy")


@contextmanager
def written_to(run: Path) -> Iterator[None]:
    """Create a run folder if there is none, and name it in errors of writing to it."""
    try:
        run.mkdir(exist_ok=True)  # missing if the checkpoint is outside of a run
        yield
    except OSError as error:
        raise not_written(run, error.strerror or str(error)) from error


def run_test(trainer: Trainer, **kwargs: Any) -> tuple[Mapping[str, float], OSError | None]:
    """Test a model, and return the metrics, and the error if a logger or a callback could not write them."""
    try:
        return trainer.test(**kwargs)[0], None
    except OSError as error:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        if not metrics:
            raise
        run = run_folder_of(Path(kwargs["ckpt_path"])) if kwargs["ckpt_path"] else Path(trainer.default_root_dir)
        failure = not_written(run, error.strerror or str(error))
        failure.__cause__ = error
        return metrics, failure


def save_predictions(
    checkpoint: Path,
    batches: Sequence[Any],
    model: LightningModule,
    data: LightningDataModule | None,
    all_classes: bool = False,
    other_data: Mapping[str, object] | None = None,
) -> tuple[Path, int]:
    """Write the predictions of a checkpoint into its run folder, and return the file and the number of predictions.

    The file is `predictions.csv` for one class or value per sample, or `predictions_<name>.csv` for samples other than
    the test split. Other predictions are written to a `.pt` file for `torch.load`. Batches are the outputs of
    `predict_step`, or their most probable classes; `all_classes` writes the probability of each, also of very many.
    """
    run, labels, name = run_folder_of(checkpoint), None, "predictions"
    if others := getattr(data, "predict", None) if isinstance(data, BaseDataModule) else None:
        name += f"_{Path(others).resolve().stem}"
    elif other_data:
        name += f"_{name_of_data(other_data)}"
    table = _as_table(batches, model, data)
    written = run / f"{name}.{'pt' if table is None else 'csv'}"
    with written_to(run):
        if table is None or not isinstance(data, BaseDataModule):
            with atomic_write(written) as path:
                torch.save(list(batches), path)
            return written, sum(map(batch_size, batches))
        number = len(table.classes if isinstance(table, TopClasses) else table)
        if not others and (targets := targets_of(data.predict_set)) is not None:
            labels = targets[:number]
        rows, keys = data.predicted_rows(), data.keys("predicted")
        if data.unreadable:
            if isinstance(table, TopClasses):
                table = TopClasses(*(add_unreadable(part, rows, data.unreadable) for part in table))
            else:
                table = add_unreadable(table, rows, data.unreadable)
        _write_table(written, model, table, data, rows, labels, keys, all_classes)
    return written, number


def check_readable(written: Path, data: LightningDataModule | None) -> None:
    """Raise ValueError if samples could not be read, whose rows in a file of predictions are empty."""
    if isinstance(data, BaseDataModule) and data.unreadable:
        rows = data.predicted_rows()
        names = join_names([str(rows[index]) for index in data.unreadable], 3)
        advice = ", or leave them out with --data.skip_broken true" if hasattr(data, "skip_broken") else ""
        raise ValueError(
            f"{len(data.unreadable):,} of {len(rows):,} files can't be used, and their rows in {written} are empty: "
            f"{names}; replace them{advice}"
        )


def _write_table(
    path: Path,
    model: LightningModule,
    table: Tensor | TopClasses,
    data: BaseDataModule,
    rows: Sequence[object],
    labels: Tensor | None,
    keys: Keys,
    all_classes: bool,
) -> None:
    """Write predictions as CSV; see `write_predictions` and `write_multilabel_predictions`."""
    if isinstance(model, MultiLabelTask):
        assert isinstance(table, Tensor)
        write_multilabel_predictions(path, rows, data.row_header, table, model.class_names, labels, keys, all_classes)
        return
    names, threshold = (model.class_names, model.threshold) if isinstance(model, ClassificationTask) else ((), None)
    write_predictions(path, rows, data.row_header, table, names, labels, threshold, keys)


def _as_table(
    batches: Sequence[Any], model: LightningModule, data: LightningDataModule | None
) -> Tensor | TopClasses | None:
    """Return the probabilities (N, classes), or the most probable ones, or values (N,); None for other predictions."""
    if not (
        isinstance(model, ClassificationTask | RegressionTask | MultiLabelTask) and isinstance(data, BaseDataModule)
    ):
        return None
    if batches and isinstance(batches[0], TopClasses):
        return TopClasses.cat(batches)
    table = torch.cat(list(batches)).cpu()
    return table if table.ndim <= 2 else None


def folder_of_test(checkpoint: Path, other_data: Mapping[str, object]) -> Path:
    """Return the folder of the results of a test: the run folder, or one inside it for other data than the run's."""
    run = run_folder_of(checkpoint)
    return run / f"test_{name_of_data(other_data)}" if other_data else run


def name_of_data(other_data: Mapping[str, object]) -> str:
    """Return a part of a file name for other data than the run's.

    Examples:
        >>> name_of_data({"data_dir": "../photos/new", "labels": "new labels.csv"}), name_of_data({"data_seed": 7})
        ('photos_new_new_labels.csv', 'data_seed_7')
    """
    text = " ".join(_name_value(option, value) for option, value in other_data.items())
    name = re.sub(r"[^\w.-]+", "_", text).strip("._")
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name or "other_data"
    digest = blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{digest}{name.encode()[-MAX_NAME_BYTES:].decode(errors='ignore')}"


def _name_value(option: str, value: object) -> str:
    """Return a path without the suffix of a file, or another value with its option."""
    if not isinstance(value, str | Path):
        return f"{option} {value}"
    path = Path(value)
    return str(path.with_suffix("") if path.is_file() else path)


@rank_zero_only
def save_test_results(
    folder: Path,
    checkpoint: Path,
    metrics: Mapping[str, float],
    collected: TestOutputCollector,
    model: LightningModule,
    data: LightningDataModule | None,
    command: str,
    all_classes: bool = False,
) -> Path | None:
    """Write `test_metrics.json`, `predictions.csv` and `report.html` into the `folder_of_test` of a checkpoint.

    Returns:
        The path of the report; None for models other than classifiers and regression models, and other data.

    Raises:
        OSError: If the folder can't be written to.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    outputs, labels = collected.outputs, collected.targets
    run = run_folder_of(checkpoint)
    with written_to(run):
        folder.mkdir(exist_ok=True)
        write_json(folder / "test_metrics.json", finite)
        if outputs is None or labels is None or not isinstance(data, BaseDataModule):
            return None
        assert isinstance(model, ClassificationTask | RegressionTask | MultiLabelTask)  # else nothing is collected
        file, rows, keys = folder / "predictions.csv", data.tested_rows(), data.keys("tested")
        table = outputs
        if isinstance(outputs, Tensor) and not isinstance(model, RegressionTask):
            table = model.to_prediction(outputs) if isinstance(model, MultiLabelTask) else outputs.exp()
        _write_table(file, model, table, data, rows, labels, keys, all_classes)
        with progress("writing the report"):
            return write_report(run, checkpoint.name, metrics, outputs, labels, model, data, command, folder=folder)
