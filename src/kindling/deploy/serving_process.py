"""The processes of `kindling serve`: one, or several workers that share a port; all load new versions on SIGHUP."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
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
from kindling.deploy.served_models import ServedModel
from kindling.deploy.server import Service
from kindling.deploy.settings import Settings
from kindling.deploy.sighup import has_terminal, record_hang_ups
from kindling.training.orphans import exit_when_orphaned

MAX_CONNECTIONS = 2048  # of a process; uvicorn answers more with status 503


class Workers(Multiprocess):
    """Several worker processes; a reload happens within them, so that they keep their connections.

    Args:
        config: Configuration of uvicorn.
        sockets: Where to listen.
        settings: What the workers serve.
        tasks: The task of each model, by its name.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[Any], settings: Settings, tasks: Mapping[str, Any]
    ) -> None:
        self._settings, self._tasks = settings, tasks
        self._is_requested = False
        self._thread = ThreadPoolExecutor(1)
        self._check: Future[Settings] | None = None
        self._to_signal: list[Any] = []
        super().__init__(config, sockets)

    def handle_hup(self) -> None:
        """Let all workers load new versions."""
        if self._settings.ends_with_terminal and not has_terminal():
            self.handle_term()
        else:
            self.reload()

    def reload(self) -> None:
        """Let all workers load new versions soon."""
        self._is_requested = True

    def keep_subprocess_alive(self) -> None:
        """Restart workers that have ended, and carry on with a reload, without waiting for anything."""
        super().keep_subprocess_alive()
        if self._check is None and self._is_requested:
            self._is_requested = False
            self._check = self._thread.submit(self._settings.accept, self._tasks)
        if self._check is not None and self._check.done():
            self._settings, self._check = self._check.result(), None
            self._settings.publish()
            self._to_signal = list(self.processes)
        self._to_signal = [worker for worker in self._to_signal if worker in self.processes and not hang_up(worker)]


def hang_up(worker: Any) -> bool:
    """Send SIGHUP to a worker unless it is still starting, and return whether that was done."""
    if not worker.is_ready(1):
        return False
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGHUP)
    return True


def run_server(
    settings: Settings, predictors: Mapping[str, Predictor], host: str, port: int, early: Sequence[int] = ()
) -> None:
    """Serve until a signal stops the server.

    Args:
        settings: What to serve.
        predictors: The models by their names.
        host: Address to listen on.
        port: Port to listen on.
        early: See `record_hang_ups`.
    """
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "limit_concurrency": MAX_CONNECTIONS,
        "timeout_graceful_shutdown": 30,  # seconds for running requests
    }
    if settings.workers == 1:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(build_app(settings, predictors, early), **options)).run()
        return
    with tempfile.TemporaryDirectory(prefix="kindling-serve-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        watched, settings = settings, replace(settings, folder=folder, parent=os.getpid(), watch_seconds=0)
        settings.keep_copies()
        settings.publish()
        config = uvicorn.Config(f"{__name__}:worker_app", factory=True, workers=settings.workers, **options)
        tasks = {name: predictor.card.task for name, predictor in predictors.items()}
        workers = Workers(config, [config.bind_socket()], settings, tasks)
        workers.signal_queue += early
        with watch(watched, workers.reload):
            workers.run()


def worker_app() -> FastAPI:
    """Return the application of a worker process, configured by the environment."""
    early = record_hang_ups()
    settings = Settings.published()
    exit_when_orphaned(settings.parent)
    return build_app(settings, {name: settings.open(name) for name in settings.files}, early)


def build_app(settings: Settings, predictors: Mapping[str, Predictor], early: Sequence[int] = ()) -> FastAPI:
    """Return the application of one process."""
    torch.set_num_threads(count_threads(settings.workers))
    metrics = Metrics(Path(settings.folder) if settings.folder else None)
    models = [
        ServedModel(name, predictor, metrics, settings.batch_size, settings.versions[name])
        for name, predictor in predictors.items()
    ]
    service = Service(models, metrics, os.environ.get(KEY, ""), settings.max_bytes, settings.access_log)
    keep_objects()
    lock = asyncio.Lock()

    async def reload() -> None:
        async with lock:
            found = [await asyncio.to_thread(reload_model, model, settings.models[model.name]) for model in models]
            if any(found):
                keep_objects()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references
        loop = asyncio.get_running_loop()

        def start_reload() -> None:
            running.add(task := asyncio.create_task(reload()))
            task.add_done_callback(running.discard)

        def handle_hup() -> None:
            if settings.ends_with_terminal and not has_terminal():  # the terminal was closed
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                start_reload()

        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, handle_hup)
        if early:
            handle_hup()
        with watch(settings, lambda: loop.call_soon_threadsafe(start_reload)):
            yield

    return service.app(lifespan)


def count_threads(workers: int) -> int:
    """Return the number of computing threads of a worker: its share of the cores, minus one that reads requests.

    More would be many times slower, since computing threads busy-wait for each other.
    """
    return max(1, torch.get_num_threads() // workers - 1)
