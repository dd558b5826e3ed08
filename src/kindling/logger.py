"""The loggers of a run: TensorBoard gets training and validation in one chart."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from kindling.runs import read_checkpoint


class StageLogger(TensorBoardLogger):
    """Writes `train/loss` and `val/loss` as `metrics/loss` of two folders in the run, which makes one chart of them.

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
        for name, value in metrics.items():
            stage, _, figure = name.partition("/")
            if stage in ("train", "val") and figure:
                self.writer(stage).add_scalar(f"metrics/{figure}", float(value), step)
            elif stage != "test" and name != "epoch":  # of a test one point each, which HParams shows; a straight line
                self.writer("train").add_scalar(f"optimization/{name}", float(value), step)

    @override
    @rank_zero_only
    def save(self) -> None:
        super().save()
        for writer in self._writers.values():
            writer.flush()

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        for writer in self._writers.values():
            writer.close()


def run_loggers(run: Path, resumed: Path | None) -> list[Logger]:
    """The loggers of a run: `metrics.csv`, and files for TensorBoard.

    Args:
        run: The run folder.
        resumed: The checkpoint that the run goes on from: what was logged after it is left out.
    """
    where: dict[str, Any] = {"save_dir": run.parent.parent, "name": run.parent.name, "version": run.name}
    csv_logger, table, steps = CSVLogger(**where), run / "metrics.csv", None
    if resumed and table.exists():
        # CSVLogger would begin the file anew: it is handed the rows up to the checkpoint.
        steps = read_checkpoint(resumed)["global_step"]
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if was_before(row, steps)]
        csv_logger.experiment.metrics = rows
        csv_logger.save()
    return [csv_logger, StageLogger(**where, purge_step=steps)]


def was_before(row: Mapping[str, str | None], steps: int) -> bool:
    """Whether a row of `metrics.csv` is of one of the first steps; a row that was cut off is of none."""
    step = row["step"] or ""
    return step.isdigit() and int(step) < steps
