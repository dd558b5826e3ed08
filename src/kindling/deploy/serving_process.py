"""The processes of `kindling serve`: one, or several workers that share a port; all load new versions on SIGHUP."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from typing_extensions import override
from uvicorn.config import STARTUP_FAILURE

from kindling.deploy.addresses import KEY
from kindling.deploy.http_protocol import LimitedProtocol
from kindling.deploy.metrics import Metrics
from kindling.deploy.predictor import Predictor
from kindling.deploy.reloading import freeze_garbage_collector, reload_model, watch
from kindling.deploy.served_models import ServedModel
from kindling.deploy.server import Service
from kindling.deploy.settings import Settings
from kindling.deploy.shared_folder import shared_folder
from kindling.deploy.sighup import has_terminal, record_sighups
from kindling.deploy.workers import Workers
from kindling.training.orphans import exit_when_orphaned
from kindling.utils.console import say
from kindling.utils.text import shorten

MAX_OPEN_FILES = 65_536  # of a process: its connections, if the system allows as many


class AnnouncedServer(uvicorn.Server):
    """A server that calls a function when it accepts connections."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], object]) -> None:
        super().__init__(config)
        self._announce = announce

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


def run_server(
    settings: Settings,
    predictors: Mapping[str, Predictor],
    host: str,
    port: int,
    announce: Callable[[], object],
    pending_signals: Sequence[int] = (),
) -> None:
    """Serve until a signal stops the server; call `announce` when it has started.

    With several workers, the predictors are unusable afterwards.
    """
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": LimitedProtocol,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "timeout_keep_alive": 75,  # seconds; reverse proxies reuse connections for up to a minute
        "timeout_graceful_shutdown": 30,  # seconds for running requests
        "timeout_worker_healthcheck": 60,  # seconds; a worker that imports torch does not respond
    }
    raise_file_limit()
    if settings.workers == 1:
        with suppress(KeyboardInterrupt):
            app = build_app(settings, predictors, pending_signals)
            AnnouncedServer(uvicorn.Config(app, **options), announce).run()
        return
    tasks = {name: predictor.card.task for name, predictor in predictors.items()}
    for predictor in predictors.values():
        del predictor.compute  # the network: this process only watches the workers, which load their own
    gc.collect()
    with shared_folder() as folder, keeping_environment():
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        watched, settings = settings, replace(settings, folder=folder, parent=os.getpid(), watch_seconds=0)
        settings.keep_copies()
        settings.publish()
        config = uvicorn.Config(f"{__name__}:worker_app", factory=True, workers=settings.workers, **options)
        workers = Workers(config, [config.bind_socket()], settings, tasks, announce)
        workers.signal_queue += pending_signals
        with watch(watched, workers.reload):
            workers.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in workers.processes):
        sys.exit(STARTUP_FAILURE)


@contextmanager
def keeping_environment() -> Iterator[None]:
    """Restore the environment in the end: that of the workers names a folder that is gone then."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def raise_file_limit() -> None:
    """Allow as many open files, and so connections, as the system lets this process have."""
    if os.name != "posix":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def worker_app() -> FastAPI:
    """Return the application of a worker process, configured by the environment."""
    pending_signals = record_sighups()
    try:
        settings = Settings.published()
        exit_when_orphaned(settings.parent)
        limit_threads(settings.workers)
        predictors = {name: settings.open(name)[0] for name in settings.files}
        return build_app(settings, predictors, pending_signals)
    except Exception as error:
        say(f"a worker failed to start: {shorten(str(error) or type(error).__name__)}", stderr=True)
        sys.exit(STARTUP_FAILURE)


def build_app(settings: Settings, predictors: Mapping[str, Predictor], pending_signals: Sequence[int] = ()) -> FastAPI:
    """Return the application of one process."""
    metrics = Metrics(Path(settings.folder) if settings.folder else None)
    models = [
        ServedModel(name, predictor, metrics, settings.batch_size, settings.versions[name])
        for name, predictor in predictors.items()
    ]
    service = Service(models, metrics, os.environ.get(KEY, ""), settings.max_bytes, settings.access_log)
    freeze_garbage_collector()
    lock = asyncio.Lock()

    async def reload(names: Collection[str]) -> None:
        async with lock:
            chosen = [model for model in models if model.name in names]
            if any([await asyncio.to_thread(reload_model, model, settings) for model in chosen]):
                freeze_garbage_collector()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references
        loop = asyncio.get_running_loop()

        def start_reload(names: Collection[str]) -> None:
            running.add(task := asyncio.create_task(reload(names)))
            task.add_done_callback(running.discard)

        def handle_hup() -> None:
            if settings.ends_with_terminal and not has_terminal():  # the terminal was closed
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                start_reload(settings.models)

        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, handle_hup)
        if pending_signals:
            handle_hup()
        with watch(settings, lambda names: loop.call_soon_threadsafe(start_reload, names)):
            yield

    return service.app(lifespan)


def limit_threads(workers: int) -> None:
    """Give a worker its share of the cores to compute, minus one that reads requests; before its models are opened.

    More would be many times slower, since computing threads busy-wait for each other.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() // workers - 1))
