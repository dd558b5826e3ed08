"""The run folder of `kindling fit`, and the callbacks and loggers that write into it."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from kindling.cli.recipes import first_recipe
from kindling.runs.folders import RUNS, check_run_name, is_last, new_run, remove_folder, run_folder_of
from kindling.runs.metadata import FILE, RunMetadata, check_is_free, recipe_name
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
from kindling.training.trackers import TrackerUpdater
from kindling.utils.console import as_command, say
from kindling.utils.files import atomic_write, remove_temporary_files


@dataclass(frozen=True)
class RunSession:
    """The run that a `fit` command trains.

    Attributes:
        path: Run folder.
        is_new: Whether this command created the folder; otherwise it resumes the run there.
        checkpoint: Checkpoint to start from, if any.
        record: Callback that writes `run.json`.
        resume: Callback that saves the last checkpoint.
        trackers: Callback that logs the configuration to the loggers of the user.
    """

    path: Path
    is_new: bool
    checkpoint: Path | None
    record: RunMetadataWriter
    resume: ExactResume
    trackers: TrackerUpdater

    @classmethod
    def open(
        cls, name: str, checkpoint: Path | None, restarted: Path | None, configs: Sequence[Path], command: str
    ) -> Self:
        """Open the run folder: for a `last.ckpt` the folder of its run, which is resumed; otherwise a new one.

        Args:
            name: Folder of a new run under `runs/`.
            checkpoint: Checkpoint to start from.
            restarted: Folder of a run without checkpoints, in which the new run starts over.
            configs: Config files on the command line: the recipe and its overlays.
            command: The full command line.

        Raises:
            ValueError: If another process is training in that folder.
        """
        if checkpoint and is_last(checkpoint):
            path, is_new, began_from = run_folder_of(checkpoint), False, None
            rank_zero_only(check_is_free)(path)
            rank_zero_only(remove_temporary_files)(path)
        elif restarted:
            path, is_new, began_from = restarted, True, None
            rank_zero_only(_clear)(path)
        else:
            # Only the first process of a distributed run writes files; Lightning tells the others its folder.
            path, is_new, began_from = rank_zero_only(new_run)(name) or RUNS / name, True, checkpoint
        recipe = recipe_name(configs) or (
            RunMetadata.read(run_folder_of(began_from)).recipe if began_from else path.parent.name
        )
        record = RunMetadataWriter(path, recipe, command, began_from or "")
        return cls(path, is_new, checkpoint, record, ExactResume(path), TrackerUpdater(record))

    def save_untrained(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Save the checkpoint of a model without trainable parameters, with its validation metrics."""
        if best := best_checkpoint_callback(trainer):
            best.best_model_path = f"{best.dirpath}/best.ckpt"
            trainer.save_checkpoint(best.best_model_path)
        self.record.finish_untrained(metrics)

    def tested_checkpoint(self, trainer: Trainer) -> Path | None:
        """Return the checkpoint that `fit` tests; None for the current weights."""
        best = best_checkpoint_callback(trainer)
        return Path(best.best_model_path or f"{best.dirpath}/last.ckpt") if best else None

    def callbacks(self) -> list[Callback]:
        """Return the callbacks that write into the run folder during training."""
        return [
            self.trackers,  # adds the IDs of its runs to what `record` writes
            self.record,
            TrainingStatsMonitor(),
            self.resume,
            PlotTrainingHistory(self.path),
            PerformanceHint(),
        ]

    def loggers(self, asked: list[Logger] | Logger | bool | None, steps: int | None) -> list[Logger]:
        """Return the loggers of the run and those of `--trainer.logger`, `asked`; an empty list if that is False."""
        if asked is False:
            return []
        others = asked if isinstance(asked, list) else [asked] if isinstance(asked, Logger) else []
        self.trackers.adopt(others, self.path)
        return run_loggers(self.path, None if self.is_new else steps) + others

    @rank_zero_only
    def clean_up(self, began: bool) -> None:
        """After a failure, print how to resume the run, or remove its folder if training never started."""
        if (self.path / "checkpoints" / "last.ckpt").exists():
            say("stopped; resume with: " + as_command("kindling", "fit --ckpt_path", self.path))
        elif self.is_new and not began:
            remove_folder(self.path)


def _clear(run_folder: Path) -> None:
    """Remove the contents of a run folder, apart from the record that this process trains there."""
    for path in run_folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != FILE:
            path.unlink()


def best_checkpoint_callback(trainer: Trainer) -> BestCheckpoint | None:
    """Return the callback that saves the best checkpoint; None if no checkpoints are saved."""
    best = trainer.checkpoint_callback
    return best if isinstance(best, BestCheckpoint) else None


def run_name(name: str | None, configs: Sequence[Path], parts: Sequence[object]) -> str:
    """Return the run name: `--run_name`, else that of the first recipe, else the classes of model and data.

    Raises:
        UsageError: If the name is not a valid folder.
    """
    if name is None:
        name = first_recipe(configs) or "-".join(type(part).__name__ for part in parts if part is not None)
    check_run_name(name)
    return name


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` once training starts, so a run that fails to resume keeps its old one."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" and not self.already_saved:
            super().setup(trainer, pl_module, stage)
            path = Path(trainer.log_dir or ".") / self.config_filename
            if trainer.is_global_zero:
                sign(path)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.log_dir or ".") / "config.yaml"  # in all processes: `log_dir` is a collective operation
        with atomic_write(path) if trainer.is_global_zero else nullcontext(path) as written:
            self.config_filename = written.name
            super().setup(trainer, pl_module, "fit")
            if trainer.is_global_zero:
                sign(written)
