"""The processes of `kindling serve`: one, or several workers that share a port; all load new versions on SIGHUP."""

import asyncio
import json
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from kindling.deploy.addresses import KEY
from kindling.deploy.metrics import Metrics
from kindling.deploy.predictor import Predictor
from kindling.deploy.reloading import keep_objects, reload_model, watch
from kindling.deploy.served_models import ServedModel, find_models, open_model, version_of
from kindling.deploy.server import Service
from kindling.training.processes import exit_when_orphaned

START_SECONDS = 60  # within which a worker is expected to be up
SETTINGS = "KINDLING_SERVE"  # environment variable that configures worker processes


@dataclass(frozen=True)
class Settings:
    """What a process serves.

    Attributes:
        models: Names and what the user gave for them: checkpoints, runs or exported files.
        files: The files that these stood for at the start, or at the last reload: a worker that restarts later serves
            the same version as the others, even if there is a newer run.
        workers: Number of processes.
        batch_size: Maximum number of samples that are computed at once.
        max_bytes: Maximum length of the body of a request.
        access_log: See `kindling.deploy.gateway.Gateway`.
        watch_seconds: How often to look for new versions; 0 for never.
        metrics_folder: Folder in which workers collect their metrics; empty for one process.
        parent: PID of the main process.
    """

    models: dict[str, str]
    files: dict[str, str]
    workers: int
    batch_size: int
    max_bytes: int
    access_log: str
    watch_seconds: float
    metrics_folder: str = ""
    parent: int = 0

    def resolve(self) -> "Settings":
        """Return the same settings with the files that the models stand for now.

        Raises:
            FileNotFoundError: If there is none for a model.
        """
        return replace(self, files=find_models(self.models))

    def publish(self) -> None:
        """Hand the settings to the worker processes that start from now on."""
        os.environ[SETTINGS] = json.dumps(asdict(self))


class Workers(Multiprocess):
    """Several worker processes; a reload happens within them, so that they keep their connections."""

    def __init__(self, *args: Any) -> None:
        self._ends_with_terminal = has_terminal()
        super().__init__(*args)

    def handle_hup(self) -> None:
        """Let all workers load new versions."""
        if self._ends_with_terminal and not has_terminal():
            self.handle_term()
            return
        with suppress(OSError, ValueError):  # the workers report it
            Settings(**json.loads(os.environ[SETTINGS])).resolve().publish()
        for worker in self.processes:
            # One that is still starting would be ended by the signal.
            if worker.wait_until_ready(START_SECONDS, self.should_exit) and worker.pid is not None:
                os.kill(worker.pid, signal.SIGHUP)


def run_server(settings: Settings, predictors: Mapping[str, Predictor], host: str, port: int) -> None:
    """Serve until a signal stops the server."""
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "timeout_graceful_shutdown": 30,  # seconds for running requests
    }
    if settings.watch_seconds:
        watched = (settings.models, settings.watch_seconds)
        threading.Thread(target=watch, args=watched, daemon=True).start()
    if settings.workers == 1:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(build_app(settings, predictors), **options)).run()
        return
    with tempfile.TemporaryDirectory(prefix="kindling-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        replace(settings, metrics_folder=folder, parent=os.getpid()).publish()
        config = uvicorn.Config(f"{__name__}:worker_app", factory=True, workers=settings.workers, **options)
        Workers(config, [config.bind_socket()]).run()


def worker_app() -> FastAPI:
    """Return the application of a worker process, configured by the environment."""
    settings = Settings(**json.loads(os.environ[SETTINGS]))
    exit_when_orphaned(settings.parent)
    return build_app(settings, {name: open_model(Path(file)) for name, file in settings.files.items()})


def build_app(settings: Settings, predictors: Mapping[str, Predictor]) -> FastAPI:
    """Return the application of one process."""
    torch.set_num_threads(count_threads(settings.workers))
    metrics = Metrics(Path(settings.metrics_folder) if settings.metrics_folder else None)
    models = [
        ServedModel(name, predictor, metrics, settings.batch_size, version_of(Path(settings.files[name])))
        for name, predictor in predictors.items()
    ]
    service = Service(models, metrics, os.environ.get(KEY, ""), settings.max_bytes, settings.access_log)
    keep_objects()
    lock, ends_with_terminal = asyncio.Lock(), has_terminal()

    async def reload() -> None:
        async with lock:
            for model in models:
                await asyncio.to_thread(reload_model, model, settings.models[model.name])
            keep_objects()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references

        def hang_up() -> None:
            if ends_with_terminal and not has_terminal():  # the terminal was closed
                os.kill(os.getpid(), signal.SIGTERM)
                return
            running.add(task := asyncio.create_task(reload()))
            task.add_done_callback(running.discard)

        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        yield

    return service.app(lifespan)


def has_terminal() -> bool:
    """Return whether this process ends when a terminal is closed: not after `nohup`, or without a terminal."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


def count_threads(workers: int) -> int:
    """Return the number of computing threads of a worker: its share of the cores, minus one that reads requests.

    More would be many times slower, since computing threads busy-wait for each other.
    """
    return max(1, torch.get_num_threads() // workers - 1)
