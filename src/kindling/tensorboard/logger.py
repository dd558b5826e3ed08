"""The loggers of a run: TensorBoard gets training and validation in one chart."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.runs.metric_names import split_of
from kindling.utils.files import atomic_write, naming_the_file


class SplitLogger(TensorBoardLogger):
    """Writes `train/loss` (or `train_loss`) and `val/loss` as `metrics/loss` of two folders, which makes one chart.

    What belongs to no stage goes to that of the training, under `optimization`. TensorBoard opens the first two groups
    of the alphabet, others on a click; and each folder counts as a run, of which it shows 40 at once.

    Args:
        **where: `save_dir`, `name` and `version` of the run, see `TensorBoardLogger`.
    """

    NAME_HPARAMS_FILE = "../config.yaml"  # which is there; Lightning's would be an empty hparams.yaml

    def __init__(self, **where: Any) -> None:
        super().__init__(default_hp_metric=False, sub_dir="train", **where)
        self.run = Path(self.log_dir).parent
        self._writers: dict[str, SummaryWriter] = {}

    def writer(self, stage: str) -> SummaryWriter:
        """The writer of a stage: train, val or test."""
        if stage == "train":
            writer: SummaryWriter = self.experiment  # a second file in one folder would hide the first
            return writer
        if stage not in self._writers:
            self._writers[stage] = SummaryWriter(self.run / stage, **self._kwargs)
        return self._writers[stage]

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with naming_the_file(self.run / "train"):
            for name, value in metrics.items():
                stage, figure = split_of(name)
                if stage in ("train", "val"):
                    self.writer(stage).add_scalar(f"metrics/{figure}", float(value), step)
                elif stage != "test" and name != "epoch":  # of a test one point each, which HParams shows; a line
                    self.writer("train").add_scalar(f"optimization/{name}", float(value), step)

    @override
    @rank_zero_only
    def save(self) -> None:
        with naming_the_file(self.run / "train"):
            super().save()
            self._open_earlier_folders()
            for writer in self._writers.values():
                writer.flush()

    def _open_earlier_folders(self) -> None:
        # A new file is what drops the points that a folder has of steps after the checkpoint. Opened at its first point
        # alone, it would be too late if this session is killed before, and the next one resumes from a later step.
        for stage in ("val", "test"):
            if self._kwargs.get("purge_step") is not None and (self.run / stage).is_dir():
                self.writer(stage)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        with naming_the_file(self.run / "train"):
            super().finalize(status)
            for writer in self._writers.values():
                writer.close()


class MetricsWriter(ExperimentWriter):
    """Write `metrics.csv` such that no row is lost: Lightning's empties the file to change its header.

    A run that is resumed gets a new file with the rows up to its checkpoint, so a copy shares none with the original.

    Args:
        log_dir: The run folder.
        rows: The rows to begin with.
    """

    def __init__(self, log_dir: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(log_dir)
        self._path = Path(self.metrics_file_path)
        if rows:
            self._begin(rows)
        else:
            self._path.unlink(missing_ok=True)

    @override
    def _check_log_dir_exists(self) -> None:
        pass  # it would delete the file

    @override
    def save(self) -> None:
        if not self.metrics:
            return
        if set().union(*self.metrics) <= set(self.metrics_keys):
            with naming_the_file(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, fieldnames=self.metrics_keys).writerows(self.metrics)
        else:
            self._begin((complete_rows(self._path) if self._path.exists() else []) + self.metrics)
        self.metrics = []

    def _begin(self, rows: list[dict[str, Any]]) -> None:
        self.metrics_keys = sorted(set(self.metrics_keys).union(*rows))
        with atomic_write(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=self.metrics_keys)
            table.writeheader()
            table.writerows(rows)


class MetricsLogger(CSVLogger):
    """Log to `metrics.csv` of a run.

    Args:
        rows: The rows that the run has already.
        **where: `save_dir`, `name` and `version` of the run, see `CSVLogger`.
    """

    def __init__(self, rows: list[dict[str, Any]], **where: Any) -> None:
        super().__init__(**where)
        self._rows = rows

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> MetricsWriter:
        if not isinstance(self._experiment, MetricsWriter):
            self._experiment = MetricsWriter(self.log_dir, self._rows)
        return self._experiment


def run_loggers(run: Path, steps: int | None) -> list[Logger]:
    """Return the loggers of the run: `metrics.csv`, and files for TensorBoard.

    Args:
        run: The run folder.
        steps: Optimizer steps of the checkpoint from which the run resumes: what was logged later is left out.
    """
    where: dict[str, Any] = {"save_dir": run.parent.parent, "name": run.parent.name, "version": run.name}
    table = run / "metrics.csv"
    if steps is None or not table.exists():
        return [MetricsLogger([], **where), SplitLogger(**where)]
    rows = [row for row in complete_rows(table) if is_before_step(row, steps)]
    return [MetricsLogger(rows, **where), SplitLogger(**where, purge_step=steps)]


def complete_rows(table: Path) -> list[dict[str, Any]]:
    """Read the rows of `metrics.csv`, without a last one that was cut off in the middle of a number."""
    text = table.read_text("utf-8")
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def is_before_step(row: Mapping[str, str | None], steps: int) -> bool:
    """Whether a row of `metrics.csv` is of one of the first steps; a row that was cut off is of none."""
    step = row["step"] or ""
    return step.isdigit() and int(step) < steps
