"""Profiles training epochs: a table of times, and a trace of a few steps."""

import time
from collections import Counter
from pathlib import Path

import torch
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from torch.profiler import record_function
from typing_extensions import override

from kindling.utils.console import new_table, say
from kindling.utils.files import atomic_write
from kindling.utils.text import count_noun

EPOCH, BATCH = "run_training_epoch", "run_training_batch"
CALLBACKS, LOOP = "callbacks, logging, checkpoints", "the training loop itself"


# Parts of an epoch, with the endings of the names of Lightning's actions.
ENDINGS = {
    "load a batch": ("train_dataloader_next",),
    "to the device, augment": ("batch_to_device", "_batch_transfer"),
    "forward, loss, metrics": (".training_step",),
    "backward": (".backward",),
    "optimizer": (".optimizer_step",),
    "validation": (".validation_step", ".val_next", ".on_validation_epoch_end"),
}


class EpochProfiler(Profiler):
    """Times the parts of each training epoch, and traces every operator of steps 6 to 10.

    When training ends or is stopped, it prints a table and writes it to `profile.txt`; the trace is written to
    `profile.pt.trace.json`, which https://ui.perfetto.dev and TensorBoard's profiler open. On a GPU, the table shows
    CPU time, which includes waiting for the GPU; the trace shows GPU time.
    """

    def __init__(self, run_folder: Path) -> None:
        super().__init__()
        self.run_folder = run_folder
        self.trace = run_folder / "profile.pt.trace.json"
        self.seconds = dict.fromkeys([CALLBACKS, *ENDINGS, LOOP], 0.0)  # by part, over all epochs, without nested parts
        self.counts: Counter[str] = Counter()  # calls of each action
        self._running: list[tuple[str, record_function]] = []
        self._since = 0.0  # when the innermost running action started or continued
        self._tracer = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=4, warmup=1, active=5, repeat=1),
            on_trace_ready=lambda trace: trace.export_chrome_trace(str(self.trace)),
        )

    @override
    def start(self, action_name: str) -> None:
        if action_name == EPOCH and not self.counts:
            self._tracer.start()
        if action_name == EPOCH or self._running:
            self._add_time()
            self.counts[action_name] += 1
            self._running.append((action_name, record_function(action_name)))
            self._running[-1][1].__enter__()  # type: ignore[no-untyped-call]

    @override
    def stop(self, action_name: str) -> None:
        if not self._running or self._running[-1][0] != action_name:
            return
        self._add_time()
        self._running.pop()[1].__exit__(None, None, None)
        if action_name == BATCH:
            self._tracer.step()

    def _add_time(self) -> None:
        """Add the time since the last call to the part that is running."""
        now = time.perf_counter()
        if self._running:
            self.seconds[part_of(self._running[-1][0])] += now - self._since
        self._since = now

    @override
    def summary(self) -> str:
        return ""

    @override
    def describe(self) -> None:
        epochs, batches = self.counts[EPOCH], self.counts[BATCH]
        if self._stage != "fit" or not batches:
            return
        self._tracer.stop()  # still running if there were fewer than ten steps
        total = sum(self.seconds.values())
        title = f"time per epoch, {count_noun(epochs, 'epoch', 'epochs')} of {batches // epochs} batches"
        table = new_table(title, "part", "seconds", "percent", "ms per batch")
        for part, spent in [*sorted(self.seconds.items(), key=lambda item: -item[1]), ("all", total)]:
            table.add_row(part, f"{spent / epochs:.2f}", f"{spent / total:.0%}", f"{1000 * spent / batches:.2f}")
        say(table)
        if self.trace.exists():
            say(f"trace of a few steps: {self.trace} (open it with https://ui.perfetto.dev)")
        with atomic_write(self.run_folder / "profile.txt") as path, path.open("w", encoding="utf-8") as file:
            Console(file=file, width=100, force_jupyter=False).print(table)


def part_of(action: str) -> str:
    """Return the part of an epoch to which an action of Lightning belongs."""
    if action.startswith("[Callback]"):
        return CALLBACKS
    return next((part for part, endings in ENDINGS.items() if action.endswith(endings)), LOOP)
