"""Experiment trackers: loggers that a user adds to those of the run, such as Weights & Biases and MLflow."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from typing_extensions import override

from kindling.runs.metadata import RunMetadata
from kindling.runs.process import is_copy
from kindling.runs.run import Run
from kindling.training.run_metadata_writer import RunMetadataWriter

SERVER_SECONDS = 10  # for the first answer of a server


class LocalMLFlowLogger(MLFlowLogger):
    """MLFlowLogger with a local database as default: MLflow refuses Lightning's default, a folder of files.

    Args:
        tracking_uri: Database or server; by default that of `MLFLOW_TRACKING_URI`, or else `mlflow.db` in this folder.
        **kwargs: Other arguments of `MLFlowLogger`.
    """

    def __init__(self, tracking_uri: str | None = None, **kwargs: Any) -> None:
        store = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        super().__init__(tracking_uri=store, **kwargs)


class TrackerUpdater(Callback):
    """Logs the configuration to experiment trackers, and keeps the IDs of their runs in `run.json`.

    W&B and MLflow get the name of the run folder. A resumed run continues its runs there; a copied one starts new ones.
    """

    def __init__(self, record: RunMetadataWriter) -> None:
        self.record = record
        self.loggers: list[Logger] = []

    def adopt(self, loggers: list[Logger], run_folder: Path) -> None:
        """Take over the loggers of a user before they start their runs; names and IDs that the user chose stay."""
        self.loggers = loggers
        earlier = RunMetadata.read(run_folder)
        stored = {} if is_copy(earlier.process, run_folder) else earlier.trackers
        name = f"{run_folder.parent.name}/{run_folder.name}"
        for key, logger in _by_key(loggers):
            run_id = stored.get(key)
            if isinstance(logger, WandbLogger):
                if not logger._wandb_init.get("anonymous"):
                    logger._wandb_init.pop("anonymous", None)  # W&B warns about it, even if nobody set it
                logger._wandb_init["name"] = logger._name = logger._name or name
                logger._wandb_init["id"] = logger._id = logger._id or run_id
            elif isinstance(logger, MLFlowLogger):
                check_server(logger._tracking_uri or "")
                logger._run_name = logger._run_name or name
                if run_id and not logger._run_id and _exists(logger, run_id):
                    logger._run_id = run_id

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            settings = Run.read(self.record.run_folder).settings()  # config.yaml is written by now
            for key, logger in _by_key(self.loggers):
                self._log(key, logger, settings, self.record.run_folder / "config.yaml")
            self.loggers = []

    def _log(self, key: str, logger: Logger, settings: dict[str, Any], config: Path) -> None:
        known: dict[str, Any] = {}
        if isinstance(logger, MLFlowLogger):  # which never changes a parameter
            known = logger.experiment.get_run(logger.run_id).data.params
            logger.experiment.update_run(logger.run_id, status="RUNNING")
            logger.experiment.log_artifact(logger.run_id, str(config))  # parameters are cut off
        logger.log_hyperparams({name: value for name, value in settings.items() if name not in known})
        if isinstance(logger, MLFlowLogger | WandbLogger):
            self.record.record.trackers[key] = str(logger.version)


def _by_key(loggers: list[Logger]) -> Iterator[tuple[str, Logger]]:
    """Yield each logger with its key in `run.json`: MLFlowLogger, MLFlowLogger 2, WandbLogger."""
    names = [type(logger).__name__ for logger in loggers]
    for i, (name, logger) in enumerate(zip(names, loggers, strict=True)):
        number = names[: i + 1].count(name)
        yield name if number == 1 else f"{name} {number}", logger


def check_server(address: str) -> None:
    """Raise ConnectionError if an MLflow server can't be reached, for which MLflow itself takes minutes."""
    if not address.startswith(("http://", "https://")):
        return
    try:
        urlopen(address, timeout=SERVER_SECONDS).close()
    except (HTTPError, HTTPException):
        return  # it has answered
    except OSError as error:
        if isinstance(getattr(error, "reason", None), SSLError):
            return  # MLflow has options for certificates
        raise ConnectionError(
            f"can't reach the MLflow server at {address}: start it, or leave out tracking_uri and MLFLOW_TRACKING_URI"
        ) from error


def _exists(logger: MLFlowLogger, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # of a database that was deleted, for example
        return logger._mlflow_client.get_run(run_id).info.lifecycle_stage == "active"
    return False


@contextmanager
def finishing_trackers() -> Iterator[None]:
    """Finish the W&B run that this block starts, or it would receive the metrics of the next run in this process."""
    before, code = _wandb_run(), 1
    try:
        yield
        code = 0
    finally:
        if (run := _wandb_run()) and run is not before:
            run.finish(exit_code=code)


def _wandb_run() -> Any:
    """Return the current W&B run of this process, if any, without importing W&B."""
    return getattr(sys.modules.get("wandb"), "run", None)


@contextmanager
def explaining_login() -> Iterator[None]:
    """Raise ValueError with all ways out if W&B has no API key and no terminal to ask for one."""
    try:
        yield
    except Exception as error:
        wandb = sys.modules.get("wandb")
        if wandb and isinstance(error, wandb.errors.UsageError) and "API key" in str(error):
            raise ValueError("W&B has no API key: run wandb login, or set WANDB_MODE=offline") from error
        raise
