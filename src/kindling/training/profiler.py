"""Where the time of an epoch goes: a table to read and a trace to open."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from rich.table import Table
from torch.profiler import record_function
from typing_extensions import override

from kindling.utils.console import say
from kindling.utils.files import atomic_write

EPOCH, BATCH = "run_training_epoch", "run_training_batch"
LOOP = "the training loop itself"


def _ends(*endings: str) -> Callable[[str], bool]:
    return lambda action: action.endswith(endings)


# By what Lightning calls them; the first that fits counts.
PARTS: dict[str, Callable[[str], bool]] = {
    "callbacks, logging, checkpoints": lambda action: action.startswith("[Callback]"),
    "load a batch": _ends("train_dataloader_next"),
    "to the device, augment": _ends("batch_to_device", "_batch_transfer"),
    "forward, loss, metrics": _ends(".training_step"),
    "backward": _ends(".backward"),
    "optimizer": _ends(".optimizer_step"),
    "validation": _ends(".validation_step", ".val_next", ".on_validation_epoch_end"),
    LOOP: lambda action: True,
}


class EpochProfiler(Profiler):
    """Times the parts of each training epoch, and traces every operator of steps 6 to 10.

    When training ends or is stopped it prints a table and writes it as `profile.txt`, beside `profile.pt.trace.json`,
    which https://ui.perfetto.dev and TensorBoard's profiler open. On a GPU the table has the time that the CPU spent or
    waited; the trace has the GPU's.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run
        self.trace = run / "profile.pt.trace.json"
        self.seconds = dict.fromkeys(PARTS, 0.0)  # of all epochs together; what runs within a part is not its own
        self.times: Counter[str] = Counter()  # how often each action ran
        self._running: list[tuple[str, record_function]] = []
        self._since = 0.0  # when the innermost of them began or went on
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it tells everyone that there is no GPU
        self._tracer = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=4, warmup=1, active=5, repeat=1),
            on_trace_ready=lambda trace: trace.export_chrome_trace(str(self.trace)),
        )

    @override
    def start(self, action_name: str) -> None:
        if action_name == EPOCH and not self.times:
            self._tracer.start()
        if action_name == EPOCH or self._running:
            self._note()
            self.times[action_name] += 1
            self._running.append((action_name, record_function(action_name)))
            self._running[-1][1].__enter__()  # type: ignore[no-untyped-call]

    @override
    def stop(self, action_name: str) -> None:
        if not self._running or self._running[-1][0] != action_name:
            return
        self._note()
        self._running.pop()[1].__exit__(None, None, None)
        if action_name == BATCH:
            self._tracer.step()

    def _note(self) -> None:
        """Gives the time that has passed to the part that is under way."""
        now = time.perf_counter()
        if self._running:
            action = self._running[-1][0]
            part = next(part for part, fits in PARTS.items() if fits(action))
            self.seconds[part] += now - self._since
        self._since = now

    @override
    def summary(self) -> str:
        return ""

    @override
    def describe(self) -> None:
        epochs, batches = self.times[EPOCH], self.times[BATCH]
        if self._stage != "fit" or not batches:
            return
        self._tracer.stop()  # in a run of less than ten steps it is still at it
        total = sum(self.seconds.values())
        of_epochs = f"{epochs} epoch{'s' * (epochs > 1)} of {batches // epochs} batches"
        table = Table(title=f"where the time of an epoch goes, {of_epochs}")
        table.title_justify = "left"
        table.add_column("part")
        for column in ("seconds", "share", "ms a batch"):
            table.add_column(column, justify="right")
        for part, spent in [*sorted(self.seconds.items(), key=lambda item: -item[1]), ("all", total)]:
            table.add_row(part, f"{spent / epochs:.2f}", f"{spent / total:.0%}", f"{1000 * spent / batches:.2f}")
        say(table)
        if self.trace.exists():
            say(f"trace of a few steps: {self.trace} (https://ui.perfetto.dev opens it)")
        with atomic_write(self.run / "profile.txt") as path, path.open("w", encoding="utf-8") as file:
            Console(file=file, width=100, force_jupyter=False).print(table)
