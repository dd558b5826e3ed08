"""What `kindling runs` reads: `run.json` in the run folder, kept up to date while the run lasts."""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from kindling.runs.find import read_text
from kindling.runs.metadata import RunMetadata, git_commit, process_info, utc_timestamp, versions
from kindling.utils.errors import describe_killed_worker, unwrap_worker_error

REASON = 300  # letters of it that are kept
EVERY = 30.0  # seconds from one sign of life to the next


class RunMetadataWriter(Callback):
    """Writes down what a run is, how far it has come, and how it ended.

    Args:
        run: The run folder; by default that of the Trainer's logger.
        recipe: What was trained by.
        command: What was typed.
        came_from: The checkpoint of another run from which this one begins.
    """

    def __init__(
        self, run: Path | None = None, recipe: str = "", command: str = "", came_from: Path | str = ""
    ) -> None:
        self.run, self.recipe, self.command, self.came_from = run, recipe, command, str(came_from)
        self.record = RunMetadata()
        self._folder: Path | None = None
        self._writes = False
        self._before = self._began = self._written = 0.0  # seconds of earlier sessions; of a clock
        self._settings: dict[str, Any] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.begin(trainer)

    def begin(self, trainer: Trainer) -> None:
        """Notes that the run begins, or goes on."""
        folder = self.run or Path(trainer.log_dir or ".")  # asked in all processes: they tell it to each other
        self._folder, self._writes = folder, trainer.is_global_zero
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        going_on = self.run is not None and (folder / "checkpoints").is_dir()
        old = RunMetadata.read(folder) if going_on else RunMetadata()
        self._settings = settings(folder)
        keeper, (commit, changed), threads = trainer.checkpoint_callback, git_commit(), torch.get_num_threads()
        before, is_another = len(old.commands), bool(old.commit and commit) and old.commit != commit
        monitor = keeper.monitor if isinstance(keeper, ModelCheckpoint) and keeper.monitor else "val/loss"
        self.record = RunMetadata(
            recipe=old.recipe if old.commands else self.recipe,
            commands=[*old.commands, *[self.command] * bool(self.command)],
            commits=[*(old.commits or [old.commit] * before), *[commit] * bool(self.command)],
            threads=[*(old.threads or [0] * before), *[threads] * bool(self.command)],
            started=old.started or utc_timestamp(),
            process=process_info(folder),
            epochs=old.epochs or 0,
            planned=trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None,
            monitor=monitor,
            best=old.best if old.monitor == monitor and (folder / "checkpoints" / "best.ckpt").exists() else {},
            commit=commit,
            changed=changed or old.changed,
            came_from=old.came_from or self.came_from,
            altered=old.altered or is_another or not {0, threads}.issuperset(old.threads),
            tested=False,
            versions=versions(),
        )
        self._before, self._began = float(old.seconds or 0), time.monotonic()
        self._write("running")

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._settings and self._folder:  # config.yaml has been written anew by now
            self.record.altered |= settings(self._folder) != self._settings
            self._settings = {}
        self._end_epoch(trainer)

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self._written > EVERY:
            self._write("running")

    @override
    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.on_train_batch_end(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_known = self.record.monitor.startswith("val/")
        if is_known and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.note_best(trainer, trainer.current_epoch + 1)

    def _end_epoch(self, trainer: Trainer) -> None:
        self.record.epochs = trainer.current_epoch  # complete only now, and so the figures of its training
        if not self.record.monitor.startswith("val/"):
            self.note_best(trainer, trainer.current_epoch)
        self._write("running")

    def note_best(self, trainer: Trainer, epoch: int) -> None:
        """Keeps the figures where ModelCheckpoint keeps the weights: the first of equals, never NaN."""
        keeper, monitor = trainer.checkpoint_callback, self.record.monitor
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        figures = {name: value for name, value in metrics.items() if name.startswith("val/") or name == monitor}
        now, best = figures.get(monitor), self.record.best.get(monitor)
        if now is None or math.isnan(now):
            return
        more = isinstance(keeper, ModelCheckpoint) and keeper.mode == "max"
        if best is None or (now > best if more else now < best):
            self.record.best = {"epoch": epoch, **figures}

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_epoch(trainer)  # still running: what others do at the end may fail

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write("finished", self._written)  # to draw pictures is no training

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.record.status == "running":  # what goes wrong in a test later does not undo a training
            self.record.epochs = max(self.record.epochs or 0, trainer.current_epoch)
            stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
            reason = describe_killed_worker(exception) or unwrap_worker_error(str(exception))
            self.record.reason = "" if stopped else " ".join(reason.split())[:REASON]
            with suppress(OSError):  # on a full disk too, the first error is the one to report
                self._write("stopped" if stopped else "failed")

    def end_untrained(self, figures: Mapping[str, float]) -> None:
        """Notes that there was nothing to train, and the figures of the validation."""
        self.record.epochs = self.record.planned = None
        self.record.best = dict(figures)
        self._write("finished")

    def note_tested(self) -> None:
        """Record that the best checkpoint has been tested."""
        self.record.tested = True
        self._write("finished", self._written)

    def _write(self, status: str, until: float | None = None) -> None:
        self._written = until or time.monotonic()
        if self._writes and self._folder:
            self.record.status, self.record.seen = status, utc_timestamp()
            self.record.seconds = round(self._before + self._written - self._began, 2)
            self.record.write(self._folder)


def settings(run: Path) -> dict[str, Any]:
    """What `config.yaml` of a run says, its split aside: a run that goes on is told the one it has."""
    with suppress(OSError, yaml.YAMLError, AttributeError):  # a file of someone else may hold anything
        config: dict[str, Any] = yaml.safe_load(read_text(run / "config.yaml"))
        config.get("data", {}).get("init_args", {}).pop("split", None)
        return config
    return {}
