"""Loggers of a run; training and validation curves share one TensorBoard chart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.runs.metric_names import split_of
from kindling.runs.metrics_csv import MetricsLogger, complete_rows, is_before_step
from kindling.utils.files import naming_the_file


class SplitLogger(TensorBoardLogger):
    """Writes `train/loss` (or `train_loss`) and `val/loss` as `metrics/loss` to two folders, which makes one chart.

    Metrics without a split go to the training folder, under `optimization`. TensorBoard opens only the first two groups
    in alphabetical order, so images are called `pictures`; it counts each folder as a run, and shows 40 runs at once.

    Args:
        purge_step: The step from which earlier sessions' points are dropped, if the run resumes.
        **where: `save_dir`, `name` and `version` of the run, see `TensorBoardLogger`.
    """

    NAME_HPARAMS_FILE = "../config.yaml"  # it exists, so Lightning does not write an empty hparams.yaml

    def __init__(self, purge_step: int | None = None, **where: Any) -> None:
        super().__init__(default_hp_metric=False, sub_dir="train", purge_step=purge_step, **where)
        self.run = Path(self.log_dir).parent
        self._purge_step = purge_step
        self._writers: dict[str, SummaryWriter] = {}

    def writer(self, split: str) -> SummaryWriter:
        """Return the writer of a split: train, val or test."""
        if split == "train":
            writer: SummaryWriter = self.experiment  # a second file in the folder would hide the first
            return writer
        if split not in self._writers:
            self._writers[split] = SummaryWriter(self.run / split, purge_step=self._purge_step)
        return self._writers[split]

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with naming_the_file(self.run / "train"):
            for name, value in metrics.items():
                split, metric = split_of(name)
                if split in ("train", "val"):
                    self.writer(split).add_scalar(f"metrics/{metric}", float(value), step)
                elif split != "test" and name != "epoch":  # HParams shows test metrics; a single point is no curve
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
        # Opening a folder drops its points after the checkpoint. At its first new point it would be too late if this
        # session is killed before, and the next one resumes from a later step.
        for split in ("val", "test"):
            if self._purge_step is not None and (self.run / split).is_dir():
                self.writer(split)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        with naming_the_file(self.run / "train"):
            super().finalize(status)
            for writer in self._writers.values():
                writer.close()


def run_loggers(run: Path, steps: int | None) -> list[Logger]:
    """Return the loggers of a run folder: `metrics.csv` and TensorBoard.

    Entries after the steps of the checkpoint from which the run resumes are dropped.
    """
    where: dict[str, Any] = {"save_dir": run.parent.parent, "name": run.parent.name, "version": run.name}
    table = run / "metrics.csv"
    if steps is None:
        return [MetricsLogger([], **where), SplitLogger(**where)]
    earlier = complete_rows(table) if table.exists() else []  # there is none before the end of the first epoch
    rows = [row for row in earlier if is_before_step(row, steps)]
    return [MetricsLogger(rows, **where), SplitLogger(steps, **where)]
