"""Where the time of an epoch goes: a table to read and a trace to open."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.profilers import SimpleProfiler
from rich.console import Console
from rich.table import Table
from torch.profiler import record_function
from typing_extensions import override

from kindling.console import say
from kindling.runs import whole_file

EPOCH, BATCH = "run_training_epoch", "run_training_batch"


def _ends(*endings: str) -> Callable[[str], bool]:
    return lambda action: action.endswith(endings)


# By what Lightning calls them.
PARTS: dict[str, Callable[[str], bool]] = {
    "load a batch": _ends("train_dataloader_next"),
    "to the device, augment": _ends(".batch_to_device"),
    "forward, loss, metrics": _ends(".training_step"),
    "backward": _ends(".backward"),
    "optimizer": _ends(".optimizer_step"),
    "validation": _ends(".validation_step", ".val_next", ".on_validation_epoch_end"),
    "callbacks, logging, checkpoints": lambda action: (
        action.startswith("[Callback]") and not action.endswith(".on_save_checkpoint")  # a part of another's hook
    ),
}


class EpochProfiler(SimpleProfiler):
    """Times the parts of each training epoch, and traces every operator of steps 6 to 10.

    At the end of training it prints a table and writes it as `profile.txt`, beside `profile.pt.trace.json`, which
    https://ui.perfetto.dev and TensorBoard's profiler open. On a GPU the table has the time that the CPU spent or
    waited; the trace has the GPU's.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run
        self.trace = run / "profile.pt.trace.json"
        self._names: dict[str, record_function] = {}  # of what is under way, for the trace
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it tells everyone that there is no GPU
        self._tracer = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=4, warmup=1, active=5, repeat=1),
            on_trace_ready=lambda trace: trace.export_chrome_trace(str(self.trace)),
        )

    @override
    def start(self, action_name: str) -> None:
        if action_name == EPOCH and not self.recorded_durations:
            self._tracer.start()
        if action_name == EPOCH or EPOCH in self.current_actions:
            super().start(action_name)
            self._names[action_name] = record_function(action_name)
            self._names[action_name].__enter__()  # type: ignore[no-untyped-call]

    @override
    def stop(self, action_name: str) -> None:
        if action_name not in self.current_actions:
            return
        self._names.pop(action_name).__exit__(None, None, None)
        super().stop(action_name)
        if action_name == BATCH:
            self._tracer.step()

    def seconds(self) -> dict[str, float]:
        """Seconds of all training epochs together by part; they add up to the time that the epochs took."""
        spent = {action: sum(durations) for action, durations in self.recorded_durations.items()}
        parts = {
            part: sum(seconds for action, seconds in spent.items() if is_part(action))
            for part, is_part in PARTS.items()
        }
        parts["optimizer"] -= parts["forward, loss, metrics"] + parts["backward"]  # they run within its step
        return parts | {"the training loop itself": spent[EPOCH] - sum(parts.values())}

    @override
    def summary(self) -> str:
        return ""

    @override
    def describe(self) -> None:
        epochs = len(self.recorded_durations[EPOCH])
        batches = len(self.recorded_durations[BATCH])
        if self._stage != "fit" or not batches:
            return
        self._tracer.stop()  # in a run of less than ten steps it is still at it
        seconds = self.seconds()
        total = sum(seconds.values())
        table = Table(title=f"where the time of an epoch goes, {epochs} epochs of {batches // epochs} batches")
        table.title_justify = "left"
        table.add_column("part")
        for column in ("seconds", "share", "ms a batch"):
            table.add_column(column, justify="right")
        for part, spent in [*sorted(seconds.items(), key=lambda item: -item[1]), ("all", total)]:
            table.add_row(part, f"{spent / epochs:.2f}", f"{spent / total:.0%}", f"{1000 * spent / batches:.2f}")
        say(table)
        if self.trace.exists():
            say(f"trace of a few steps: {self.trace} (https://ui.perfetto.dev opens it)")
        with whole_file(self.run / "profile.txt") as path, path.open("w", encoding="utf-8") as file:
            Console(file=file, width=100).print(table)
