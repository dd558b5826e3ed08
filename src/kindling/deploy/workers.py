"""The worker processes of `kindling serve`."""

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, ClassVar

import uvicorn
from typing_extensions import override
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess, multiprocess

from kindling.deploy.settings import Settings
from kindling.deploy.sighup import has_terminal
from kindling.utils.console import say
from kindling.utils.text import shorten

JOIN_SECONDS = 35.0  # within which a worker that is told to stop must end; it has 30 for running requests


class Worker(multiprocess.Process):
    """A worker process."""

    signals: ClassVar[Sequence[int]] = ()  # those that the main process has received, but not handled
    has_started: ClassVar[bool] = False  # whether any worker has
    _was_asked = False  # for a sign of life

    @override
    def _healthcheck(self, timeout: float) -> bool | None:
        """Return as the base class does, but also when the worker has ended; False when a signal has arrived."""
        end = time.monotonic() + timeout
        try:
            if not self._was_asked:
                self.parent_conn.send(b"ping")
                self._was_asked = True
            while not self.parent_conn.poll(0.2):
                if self.signals:
                    return False
                if time.monotonic() > end or not self.process.is_alive():
                    return None
            self._was_asked = False
            is_ready = bool(self.parent_conn.recv())
            Worker.has_started |= is_ready
            return is_ready
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    @property
    @override
    def exitcode(self) -> int | None:
        """The exit code; a failure to start, on which the main process stops, is only one of the first workers."""
        code = super().exitcode
        return 1 if code == STARTUP_FAILURE and self.has_started else code


class Workers(Multiprocess):
    """Several worker processes; a reload happens within them, so that they keep their connections.

    Args:
        config: Configuration of uvicorn.
        sockets: Where to listen.
        settings: What the workers serve.
        tasks: The task of each model, by its name.
        announce: Called when the first worker has started.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[Any],
        settings: Settings,
        tasks: Mapping[str, Any],
        announce: Callable[[], object] = int,
    ) -> None:
        self._settings, self._tasks, self._announce = settings, tasks, announce
        self._is_announced = False
        self._requested: SimpleQueue[str] = SimpleQueue()
        self._thread = ThreadPoolExecutor(1)
        self._check: Future[Settings] | None = None
        self._to_signal: list[Any] = []
        super().__init__(config, sockets)
        Worker.signals, Worker.has_started = self.signal_queue, False
        multiprocess.Process = Worker  # type: ignore[misc]  # which the base class starts

    @override
    def run(self) -> None:
        try:
            super().run()
        finally:  # also after an error
            self.terminate_all()
            self.join_all()

    @override
    def terminate_all(self) -> None:
        for each in self.sockets:  # else connections would wait here for nobody until the workers have finished
            each.close()
        super().terminate_all()

    @override
    def join_all(self) -> None:
        end = time.monotonic() + JOIN_SECONDS
        for worker in self.processes:
            worker.process.join(max(0, end - time.monotonic()))
            if worker.process.is_alive():  # it hangs
                worker.kill()
        super().join_all()

    @override
    def handle_hup(self) -> None:
        if self._settings.ends_with_terminal and not has_terminal():
            self.handle_term()
        else:
            self.reload(self._settings.models)

    def reload(self, names: Iterable[str]) -> None:
        """Let all workers load new versions of models soon."""
        for name in names:
            self._requested.put(name)

    @override
    def keep_subprocess_alive(self) -> None:
        """Restart workers that have ended or do not respond for a minute, and carry on with a reload."""
        if any(worker.exitcode is not None for worker in self.processes) or not self._settings.is_published():
            with suppress(OSError, ValueError):  # a worker that needs a file prints that it is missing
                self._settings.publish()
                self._settings.keep_copies()
        super().keep_subprocess_alive()
        if Worker.has_started and not self._is_announced:
            self._is_announced = True
            self._announce()
        if self._check is None and not self._requested.empty():
            names = {self._requested.get() for _ in range(self._requested.qsize())}
            self._check = self._thread.submit(self._settings.accept, self._tasks, names)
        if self._check is not None and self._check.done():
            check, self._check = self._check, None
            self._hand_over(check)
        self._to_signal = [
            worker for worker in self._to_signal if worker in self.processes and not request_reload(worker)
        ]

    def _hand_over(self, check: "Future[Settings]") -> None:
        try:
            settings = check.result()
            settings.publish()
        except Exception as error:  # such as a full disk: the workers serve what they have
            say(f"no model was reloaded: {shorten(str(error))}", stderr=True)
            return
        self._settings = settings
        self._to_signal = list(self.processes)


def request_reload(worker: Any) -> bool:
    """Send SIGHUP to a worker unless it is still starting, and return whether that was done."""
    if not worker.is_ready(1):
        return False
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGHUP)
    return True
