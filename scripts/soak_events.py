"""Counts events in a `kindling` process and sends it a signal at one of them, for `soak.py`.

    SOAK_KILL="save 12 KILL 0" python -m soak_events fit --config configs/quickstart.yaml

Events are training, validation and test batches, and all writes: of a checkpoint (`save`) or another file (`write`).
If `SOAK_COUNTS` names a file, the number of events of each kind is written to it at the end. If `SOAK_HIT` names one,
it is created just before the signal is sent.
"""

import atexit
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from kindling.cli.entry_point import program
from kindling.cli.lightning_cli import KindlingCLI

WRITES = {"open", "os.rename", "os.remove", "os.link", "os.mkdir"}  # audit events, raised before each operation


class Events(Callback):
    """Counts events, and sends this process a signal at one of them.

    Args:
        kill: The event, its number counted from 0, the signal (`TERM+KILL` for TERM followed by KILL), and the seconds
            until the second signal, or until a KILL; empty for none.
        mark: A file to create before the signal is sent; empty for none.
    """

    def __init__(self, kill: str = "", mark: str = "") -> None:
        self.counts: Counter[str] = Counter()
        event, number, name, delay = kill.split() if kill else ("", "-1", "KILL", "0")
        self.moment, self.signals, self.delay = (event, int(number)), name.split("+"), float(delay)
        self.mark, self.process = mark, os.getpid()
        self.folders = (f"{os.getcwd()}{os.sep}", f"{tempfile.gettempdir()}{os.sep}")

    def count(self, event: str) -> None:
        """Count an event, and send the signal if it is the chosen one."""
        now = event, self.counts[event]
        self.counts[event] += 1
        if now == self.moment:
            self._send(self.signals[0])

    def _send(self, name: str) -> None:
        if self.mark:
            Path(self.mark).touch()
        if self.delay and self.signals[-1] == "KILL":
            signal.setitimer(signal.ITIMER_REAL, self.delay)  # SIGALRM ends a process that does not handle it
        if not self.delay or name != "KILL":
            os.kill(os.getpid(), signal.Signals[f"SIG{name}"])

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self.count("train")

    @override
    def on_validation_batch_start(self, *_: Any) -> None:
        self.count("validation")

    @override
    def on_test_batch_start(self, *_: Any) -> None:
        self.count("test")

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count writes; an audit hook of Python."""
        if event not in WRITES or not isinstance(arguments[0], str | os.PathLike) or os.getpid() != self.process:
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = os.path.abspath(arguments[0])
        if path.startswith(self.folders):
            self.count("save" if ".ckpt" in path else "write")


def arm() -> None:
    """Install the callback and hooks in this process, configured by environment variables."""
    counts = os.environ.get("SOAK_COUNTS", "")
    events = Events(os.environ.get("SOAK_KILL", ""), os.environ.get("SOAK_HIT", ""))
    instantiate, write_record = KindlingCLI.instantiate_trainer, torch._C.PyTorchFileWriter.write_record

    def with_events(self: KindlingCLI, **options: Any) -> Any:
        trainer = instantiate(self, **options)
        trainer.callbacks.append(events)  # type: ignore[attr-defined]
        return trainer

    def counted(*arguments: Any) -> Any:
        events.count("save")
        return write_record(*arguments)

    KindlingCLI.instantiate_trainer = with_events  # type: ignore[method-assign]
    torch._C.PyTorchFileWriter.write_record = counted  # type: ignore[method-assign, assignment]
    sys.addaudithook(events.audit)
    if counts:
        atexit.register(lambda: Path(counts).write_text(json.dumps(events.counts)))


if __name__ == "__main__":
    if int(os.environ.get("LOCAL_RANK", "0")) == int(os.environ.get("SOAK_RANK", "0")):
        arm()
    sys.argv[0] = "kindling"  # the program name in messages and run.json
    program()
