"""What a run prints: its own words, and nothing that a library says to someone else."""

import logging
import os
import shlex
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.errors import LiveError
from rich.progress import Progress
from rich.table import Table

from kindling.utils.plugins import options_again
from kindling.utils.text import format_metric, program_name, strip_control_characters

PATIENCE = 2.0  # seconds after which a person wants to know what is going on

# Each message, by its beginning, with the reason why it says nothing to the person who reads it.
SILENCED_WARNINGS = {
    r"The '.*_dataloader' does not have many workers": "tensors in memory load faster without worker processes",
    r"The number of training batches .* is smaller than the logging interval": "epochs are logged in any case",
    r"You're resuming from a checkpoint that ended before the epoch ended": "the data module goes on mid-epoch",
    r"Checkpoint directory .* exists and is not empty": "the run goes on in its folder",
    r"Experiment logs directory .* exists and is not empty": "the rows up to the checkpoint are kept",
    r"Be aware that when using `ckpt_path`": "callbacks of the training have nothing to do in a test",
    r"The dirpath has changed": "a new run that starts from a checkpoint keeps a best checkpoint of its own",
    r"You requested to overfit but enabled": "Lightning takes the same batches each epoch all the same",
    r"Found \d+ module\(s\) in eval mode": "a frozen backbone stays there on purpose",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "between lightning and torch",
    r"Error detected in \w+\. Traceback of forward call": "the line at the end names the layer",
    r"You defined a `validation_step` but have no `val_dataloader`": "a trial on one batch has nothing to validate",
    r"You passed in a `val_dataloader` but have no `validation_step`": "a model is not obliged to validate",
    r"Image size .* exceeds limit": "photos of 100 megapixels are photos; twice the limit counts as broken",
    r"(Possibly )?corrupt EXIF data": "what a camera noted beside the picture; the picture counts as upright",
    r"\s*Unable to serialize instance": "config.yaml is written without what is only a default",
    r"When using `Trainer\(accumulate_grad_batches != 1\)` and overriding": "the warm-up counts optimizer steps",
    r"`precision=.*` is supported for historical reasons": "the old names of precisions are as clear",
    r"You passed `Trainer\(accelerator='cpu', precision='16-mixed'\)`": "16-bit mixed precision is bfloat16 on a CPU",
    r"Precision .*-mixed is not supported by the model summary": "weights stay in 32 bits, as the summary counts them",
    r"When using the `ThroughputMonitor`, you need to define": "samples per second need no count of operations",
    r"You're using the WeightAveraging callback, but loading": "a test needs the averaged weights alone",
    r"The checkpoint was not created with WeightAveraging": "the average begins with the weights of the checkpoint",
    r"The PyTorch Profiler default schedule will be overridden": "a short epoch is traced as a whole",
    r"Warning: Profiler clears events at the end of each cycle": "between lightning and torch",
}


def is_first() -> bool:
    """Whether this is the first of the processes that train, the one that prints and writes."""
    lightning = sys.modules.get("lightning.pytorch.utilities")  # its import takes seconds; without it, one process
    return lightning is None or lightning.rank_zero_only.rank == 0


def say(*what: object) -> None:
    """Print lines and tables, once however many processes train; names of files in them can't control a terminal."""
    shown = (
        one if not isinstance(one, str) else "\n".join(map(strip_control_characters, one.split("\n"))) for one in what
    )
    if is_first():
        Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(*shown)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show that something takes long: after two seconds, a progress bar on a terminal and a line elsewhere.

    Args:
        what: What is going on, such as "reading 5,000 images".
        total: The number of steps; None if it is not known.

    Yields:
        A function to call with the number of steps that have been done.
    """
    console = Console(highlight=False)
    bar = Progress(*Progress.get_default_columns(), console=console, transient=True)

    def show() -> None:
        if not console.is_terminal:
            say(f"{what} ...")
        elif is_first():
            with suppress(LiveError):  # another bar is there
                bar.start()

    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    task = bar.add_task(what, total=total)
    timer.start()
    try:
        yield lambda steps: bar.advance(task, steps)
    finally:
        timer.cancel()
        timer.join()  # else a bar could start after this, and stay
        if bar.live.is_started:
            bar.stop()


def silence_libraries() -> None:
    """Silences what libraries announce: devices found, tips, seeds, the warnings above, and threads of TensorBoard."""
    threading.excepthook = _report_thread
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in SILENCED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Report the error of a thread, unless TensorBoard raises it again where the next event is written."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)


def results_table(title: str, metrics: Mapping[str, float]) -> Table:
    """The table of a measurement: one line a metric."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, format_metric(value))
    return table


def as_command(program: str, *arguments: str | Path) -> str:
    """Return a command as it can be typed here: with its folder if that is not on the PATH, and with its plug-ins."""
    words = [part if isinstance(part, str) else shlex.quote(str(part)) for part in arguments]
    if program == "kindling":
        program = program_name()
        words += [options_again()] * (not any(word.startswith("--plugin") for word in words))
    if not shutil.which(program):
        program = shutil.which(program, path=os.path.relpath(Path(sys.argv[0]).parent)) or program
    return " ".join([program, *filter(None, words)])
