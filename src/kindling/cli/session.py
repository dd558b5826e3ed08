"""What `kindling fit` keeps: the folder of its run, and what writes into it."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from kindling.cli.option_checks import check_run_name
from kindling.runs.folders import RUNS, is_last, new_run, run_folder_of
from kindling.runs.metadata import RunMetadata, check_is_free, recipe_name
from kindling.runs.signatures import sign
from kindling.tensorboard.logger import run_loggers
from kindling.training import (
    BestCheckpoint,
    ExactResume,
    PerformanceHint,
    PlotTrainingHistory,
    RunMetadataWriter,
    TrainingStatsMonitor,
)
from kindling.utils.console import as_command, say
from kindling.utils.files import atomic_write, remove_temporary_files


@dataclass(frozen=True)
class RunSession:
    """A run that is about to be trained.

    Attributes:
        path: Its folder.
        is_new: Whether the folder was made for it; else a run that was stopped goes on there.
        checkpoint: Where the training goes on from, if it does.
        record: Keeps `run.json`.
        resume: Keeps the last checkpoint.
    """

    path: Path
    is_new: bool
    checkpoint: Path | None
    record: RunMetadataWriter
    resume: ExactResume

    @classmethod
    def open(cls, name: str, checkpoint: Path | None, configs: Sequence[Path], command: str) -> Self:
        """Opens the folder of a run: that of `last.ckpt`, which goes on there, or a new one.

        Args:
            name: Folder of a new run under `runs/`.
            checkpoint: What the training goes on from.
            configs: The recipe and what was put on top of it.
            command: What was typed.

        Raises:
            ValueError: If another process trains there.
        """
        if checkpoint and is_last(checkpoint):
            path, is_new, began_from = run_folder_of(checkpoint), False, None
            rank_zero_only(check_is_free)(path)
            rank_zero_only(remove_temporary_files)(path)
        else:
            # The other processes of a distributed run write nothing: Lightning tells them where the first one writes.
            path, is_new, began_from = rank_zero_only(new_run)(name) or RUNS / name, True, checkpoint
        recipe = recipe_name(configs) or (
            RunMetadata.read(run_folder_of(began_from)).recipe if began_from else path.parent.name
        )
        return cls(
            path, is_new, checkpoint, RunMetadataWriter(path, recipe, command, began_from or ""), ExactResume(path)
        )

    def save_untrained(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Save the checkpoint of a model that has nothing to train, with its validation metrics."""
        if keeper := best_checkpoint(trainer):
            keeper.best_model_path = f"{keeper.dirpath}/best.ckpt"
            trainer.save_checkpoint(keeper.best_model_path)
        self.record.finish_untrained(metrics)

    def tested_checkpoint(self, trainer: Trainer) -> str | None:
        """Return the checkpoint that `fit` tests; None for the weights as they are."""
        keeper = best_checkpoint(trainer)
        return (keeper.best_model_path or f"{keeper.dirpath}/last.ckpt") if keeper else None

    def callbacks(self) -> list[Callback]:
        """What writes into the folder while it trains."""
        return [self.record, TrainingStatsMonitor(), self.resume, PlotTrainingHistory(self.path), PerformanceHint()]

    def loggers(self, asked: list[Logger] | Logger | bool | None, steps: int | None) -> list[Logger]:
        """Return the loggers of the run and those that were asked for; none if that is False.

        Args:
            asked: The value of `--trainer.logger`.
            steps: Optimizer steps of the checkpoint from which the training resumes, if it does.
        """
        if asked is False:
            return []
        others = asked if isinstance(asked, list) else [asked] if isinstance(asked, Logger) else []
        return run_loggers(self.path, None if self.is_new else steps) + others

    @rank_zero_only
    def clean_up(self, began: bool) -> None:
        """After a failure: says how to go on with it, or removes it where it has never begun."""
        if (self.path / "checkpoints" / "last.ckpt").exists():
            say("stopped; resume with: " + as_command("kindling", "fit --ckpt_path", self.path))
        elif self.is_new and not began:
            shutil.rmtree(self.path, ignore_errors=True)
            for folder in (self.path.parent, self.path.parent.parent):
                with suppress(OSError):
                    folder.rmdir()  # where this was the only run


def best_checkpoint(trainer: Trainer) -> BestCheckpoint | None:
    """Return the callback that saves the best checkpoint; None if no checkpoints are saved."""
    keeper = trainer.checkpoint_callback
    return keeper if isinstance(keeper, BestCheckpoint) else None


def run_name(name: str | None, configs: Sequence[Path], parts: Sequence[object]) -> str:
    """Return the name of a run's folder: the one that was typed, or that of its first recipe, or of its classes.

    Args:
        name: Value of `--run_name`.
        configs: The files of options.
        parts: Model and data module; the latter may be None.

    Raises:
        UsageError: If the name is not a valid folder.
    """
    if name is None:
        recipes = [config.stem for config in configs if config.parent.name != "with"]
        classes = "-".join(type(part).__name__ for part in parts if part is not None)
        name = (recipes or [classes])[0]
    check_run_name(name)
    return name


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` when the training begins: a run that can't go on keeps the one it has."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" and not self.already_saved:
            super().setup(trainer, pl_module, stage)
            path = Path(trainer.log_dir or ".") / self.config_filename
            if trainer.is_global_zero:
                sign(path)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.log_dir or ".") / "config.yaml"  # asked in all processes: they tell it to each other
        with atomic_write(path) if trainer.is_global_zero else nullcontext(path) as written:
            self.config_filename = written.name
            super().setup(trainer, pl_module, "fit")
            if trainer.is_global_zero:
                sign(written)
