"""Writes `run.json` in the run folder, which `kindling runs` reads, and updates it during the run."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from kindling.runs.metadata import RunMetadata, git_commit, utc_timestamp, versions
from kindling.runs.process import process_info
from kindling.runs.run import Run
from kindling.utils.errors import describe_killed_worker, logging_errors, unwrap_worker_error

MAX_REASON_LENGTH = 300  # characters
HEARTBEAT_SECONDS = 30.0


class RunMetadataWriter(Callback):
    """Records the settings, progress and outcome of a run.

    `parent` is the checkpoint of another run from which this one starts, or empty.
    """

    def __init__(self, run_folder: Path, recipe: str, command: str, parent: Path | str) -> None:
        self.run_folder, self.recipe, self.command, self.parent = run_folder, recipe, command, str(parent)
        self.record = RunMetadata()
        self._writes = False
        self._earlier_seconds = self._started = self._written = 0.0  # duration of earlier sessions; clock times
        self._settings: dict[str, Any] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.begin(trainer)

    def begin(self, trainer: Trainer) -> None:
        """Record that the run has started or resumed."""
        folder, self._writes = self.run_folder, trainer.is_global_zero
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        old = RunMetadata.read(folder) if (folder / "checkpoints").is_dir() else RunMetadata()
        self._settings = settings(folder)
        saver, (commit, changed), threads = trainer.checkpoint_callback, git_commit(), torch.get_num_threads()
        sessions, is_other_commit = len(old.commands), bool(old.commit and commit) and old.commit != commit
        monitor = saver.monitor if isinstance(saver, ModelCheckpoint) and saver.monitor else "val/loss"
        self.record = RunMetadata(
            recipe=old.recipe if old.commands else self.recipe,
            commands=[*old.commands, self.command] if self.command else old.commands,
            commits=[*(old.commits or [old.commit] * sessions), *([commit] if self.command else [])],
            threads=[*(old.threads or [0] * sessions), *([threads] if self.command else [])],
            started=old.started or utc_timestamp(),
            process=process_info(folder),
            epochs=old.epochs or 0,
            max_epochs=trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None,
            monitor=monitor,
            best=old.best if old.monitor == monitor and (folder / "checkpoints" / "best.ckpt").exists() else {},
            commit=commit,
            changed=changed or old.changed,
            parent=old.parent or self.parent,
            modified=old.modified or is_other_commit or not {0, threads}.issuperset(old.threads),
            tested=False,
            versions=versions(),
            trackers=old.trackers,
        )
        self._earlier_seconds, self._started = float(old.seconds or 0), time.monotonic()
        self._write("running")

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._settings:  # config.yaml is rewritten by now
            self.record.modified |= settings(self.run_folder) != self._settings
            self._settings = {}
        self._end_epoch(trainer)

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self._written > HEARTBEAT_SECONDS:
            self._write("running")

    @override
    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.on_train_batch_end(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_known = self.record.monitor.startswith("val/")
        if is_known and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._update_best(trainer, trainer.current_epoch + 1)

    def _end_epoch(self, trainer: Trainer) -> None:
        self.record.epochs = trainer.current_epoch  # its training metrics are complete only now
        if not self.record.monitor.startswith("val/"):
            self._update_best(trainer, trainer.current_epoch)
        self._write("running")

    def _update_best(self, trainer: Trainer, epoch: int) -> None:
        """Record the metrics of the best epoch by the rule of ModelCheckpoint: the first of equal values, never NaN."""
        saver, monitor = trainer.checkpoint_callback, self.record.monitor
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics = {name: value for name, value in metrics.items() if name.startswith("val/") or name == monitor}
        current, best = metrics.get(monitor), self.record.best.get(monitor)
        if current is None or math.isnan(current):
            return
        is_max = isinstance(saver, ModelCheckpoint) and saver.mode == "max"
        if best is None or (current > best if is_max else current < best):
            self.record.best = {"epoch": epoch, **metrics}

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_epoch(trainer)  # still running: other callbacks may fail at the end

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("finished", self._written)  # the time for plots does not count

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.record.status == "running":  # an error in a later test does not change the status
            self.record.epochs = max(self.record.epochs or 0, trainer.current_epoch)
            stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
            reason = describe_killed_worker(exception) or unwrap_worker_error(str(exception))
            self.record.reason = "" if stopped else " ".join(reason.split())[:MAX_REASON_LENGTH]
            with logging_errors("writing run.json"):
                self._write("stopped" if stopped else "failed")

    def finish_untrained(self, metrics: Mapping[str, float]) -> None:
        """Record the validation metrics of a model that has nothing to train."""
        self.record.epochs = self.record.max_epochs = None
        self.record.best = dict(metrics)
        self._write("finished")

    def mark_tested(self) -> None:
        """Record that the best checkpoint has been tested."""
        self.record.tested = True
        self._write("finished", self._written)

    def _write(self, status: str, until: float | None = None) -> None:
        self._written = until or time.monotonic()
        if self._writes:
            self.record.status, self.record.heartbeat = status, utc_timestamp()
            self.record.seconds = round(self._earlier_seconds + self._written - self._started, 2)
            self.record.write(self.run_folder)


def settings(run_folder: Path) -> dict[str, Any]:
    """Return the options in the `config.yaml` of a run without `data.split`, which a resumed run sets itself."""
    return {name: value for name, value in Run.read(run_folder).settings().items() if name != "data.split"}
