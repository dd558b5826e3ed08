"""Runs `kindling serve` in a separate process."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from conftest import Train
from kindling import Predictor
from kindling.deploy.http_protocol import LimitedProtocol
from kindling.deploy.metrics import Metrics
from kindling.deploy.served_models import ServedModel
from kindling.deploy.server import Service


def app_of(predictor: Predictor, **options: Any) -> FastAPI:
    """Return the application that serves a model."""
    return service_of({"default": predictor}, **options).app()


def service_of(predictors: dict[str, Predictor], **options: Any) -> Service:
    """Return a service with models by their names."""
    metrics = Metrics()
    return Service(
        [ServedModel(name, each, metrics, version="1") for name, each in predictors.items()], metrics, **options
    )


def train_versions(trained: Train) -> list[Path]:
    """Return checkpoints of the same small classifier after one and two epochs."""
    options = "--model MLPClassifier --model.hidden [4] --data SyntheticDataModule --test_after_fit false"
    for epochs in (1, 2):
        trained(*options.split(), "--trainer.max_epochs", str(epochs), "--run_name", f"m{epochs}")
    Path("runs").rename("versions")
    return [Path(f"versions/m{epochs}/version_0/checkpoints/last.ckpt").absolute() for epochs in (1, 2)]


@dataclass(frozen=True)
class Server:
    """A running `kindling serve`."""

    process: subprocess.Popen[str] | None  # None for a thread of this process
    host: str
    port: int

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            kind = response.headers["Content-Type"]
            found = json.loads(content) if content and kind == "application/json" else content.decode()
            return response.status, found, dict(response.headers)
        finally:
            connection.close()

    def predict(self, body: Any, path: str = "/predict", **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, json.dumps(body) if isinstance(body, dict) else body, named)[:2]

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def memory(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def serving(*options: object, **environment: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "kindling", "serve", *map(str, options)]
    command += [] if "--port" in options else ["--port", "0"]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | threads | environment
    )
    try:
        assert process.stdout
        printed, found = "", None
        while not found and (line := process.stdout.readline()):  # slow imports are announced before
            printed += line
            found = re.search(r"http://\[?([^/\]]+)\]?:(\d+)/", line)
        assert found, printed
        server = Server(process, "127.0.0.1" if found[1] == "0.0.0.0" else found[1], int(found[2]))
        assert server.ask("GET", "/health")[0] == 200  # it prints its address when it accepts connections
        yield server
    finally:
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGTERM, -signal.SIGKILL)


@contextmanager
def serving_here(app: FastAPI, port: int = 0) -> Iterator[Server]:
    """Serve an application in a thread of this process, which starts at once."""
    config = uvicorn.Config(app, port=port, log_level="warning", http=LimitedProtocol, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Server(None, "127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
