"""TensorBoard's files of a run, so that training and validation are in one chart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

STAGES = ("train", "val", "test")


class StageLogger(TensorBoardLogger):
    """Writes `train/loss` and `val/loss` as `loss` of two folders in the run: TensorBoard draws one chart of both.

    Args:
        **where: `save_dir`, `name` and `version` of the run, see `TensorBoardLogger`.
    """

    NAME_HPARAMS_FILE = "config.yaml"  # which is there; Lightning's would be an empty hparams.yaml

    def __init__(self, **where: Any) -> None:
        super().__init__(default_hp_metric=False, **where)
        self._writers: dict[str, SummaryWriter] = {}

    def writer(self, part: str) -> SummaryWriter:
        """The writer of a folder in the run, which TensorBoard shows as a run of its own; "" is the run itself."""
        if not part:
            writer: SummaryWriter = self.experiment  # a second file in one folder would hide the first
            return writer
        if part not in self._writers:
            self._writers[part] = SummaryWriter(Path(self.log_dir, part), **self._kwargs)
        return self._writers[part]

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            stage, _, figure = name.partition("/")
            number = float(value)
            if stage in STAGES and figure:
                self.writer(stage).add_scalar(figure, number, step)
            elif name != "epoch":  # a straight line
                self.experiment.add_scalar(name, number, step)

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
