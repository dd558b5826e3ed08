"""Console output: messages, tables and progress bars, without the warnings of libraries that do not concern users."""

import logging
import os
import shlex
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from rich.console import Console
from rich.errors import LiveError
from rich.progress import Progress
from rich.table import Table

from kindling.utils.console_idle import note_output, silence
from kindling.utils.plugins import plugin_options
from kindling.utils.text import format_metric, program_name, strip_control_characters

PROGRESS_DELAY = 2.0  # seconds of silence before a progress bar appears,
MIN_DELAY_FRACTION = 0.1  # but not for a shorter step than this part of them

# Regular expressions for the start of a warning, with the reason to silence it.
SILENCED_WARNINGS = {
    r"The '.*_dataloader' does not have many workers": "tensors in memory load faster without worker processes",
    r"The number of training batches .* is smaller than the logging interval": "epochs are logged in any case",
    r"You're resuming from a checkpoint that ended before the epoch ended": "the data module resumes mid-epoch",
    r"Checkpoint directory .* exists and is not empty": "the run resumes in its folder",
    r"Experiment logs directory .* exists and is not empty": "the rows up to the checkpoint are kept",
    r"Be aware that when using `ckpt_path`": "evaluation needs no training callbacks",
    r"The dirpath has changed": "a new run that starts from a checkpoint saves its own best checkpoint",
    r"You requested to overfit but enabled": "Lightning uses the same batches in each epoch anyway",
    r"Found \d+ module\(s\) in eval mode": "a frozen backbone stays in eval mode on purpose",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "between lightning and torch",
    r"Error detected in \w+\. Traceback of forward call": "the final error message names the layer",
    r"Total length of `\w+` across ranks is zero": "an ensemble may have nothing to validate on, and says so",
    r"You defined a `validation_step` but have no `val_dataloader`": "overfitting one batch needs no validation",
    r"You passed in a `val_dataloader` but have no `validation_step`": "validation is optional",
    r"ReduceLROnPlateau conditioned on metric val/loss": "without validation, `fit` says so at the start",
    r"Image size .* exceeds limit": "photos may have 100 megapixels; Kindling has its own limit",
    r"(Possibly )?corrupt EXIF data": "the image itself is intact and is not rotated",
    r"\s*Unable to serialize instance": "only defaults are not serializable, and config.yaml omits them",
    r"When using `Trainer\(accumulate_grad_batches != 1\)` and overriding": "the warm-up counts optimizer steps",
    r"`precision=.*` is supported for historical reasons": "the old names are as clear",
    r"You passed `Trainer\(accelerator='cpu', precision='16-mixed'\)`": "16-bit mixed precision is bfloat16 on a CPU",
    r"IProgress not found": "timm's library of downloads looks for widgets of Jupyter, which nothing needs here",
    r"Precision .*-mixed is not supported by the model summary": "weights stay in 32 bits, so the summary is right",
    r"\s*(By default only one Jsonargparse|``instantiate_classes`` was deprecated)": "Lightning calls older methods",
    r"When using the `ThroughputMonitor`, you need to define": "samples per second need no FLOP count",
    r"You're using the WeightAveraging callback, but loading": "evaluation needs only the averaged weights",
    r"The checkpoint was not created with WeightAveraging": "averaging starts from the weights of the checkpoint",
    r"The PyTorch Profiler default schedule will be overridden": "a short epoch is traced completely",
    r"Warning: Profiler clears events at the end of each cycle": "between lightning and torch",
}


def is_rank_zero() -> bool:
    """Return whether this process has rank 0, the only one that prints and writes."""
    lightning = sys.modules.get("lightning.pytorch.utilities")  # not imported: a single process
    return lightning is None or lightning.rank_zero_only.rank == 0


def say(*items: object, stderr: bool = False) -> None:
    """Print lines and tables on rank 0, without control characters, which file names may contain."""
    if is_rank_zero():
        note_output()
        safe = ("\n".join(map(strip_control_characters, x.split("\n"))) if isinstance(x, str) else x for x in items)
        Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True).print(*safe)


@contextmanager
def progress(description: str, total: int | None = None, stderr: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar (on a terminal) or print a line (elsewhere) after two seconds without output.

    The seconds before the block count, so that several short steps are no long silence.

    Args:
        description: The task, such as "reading 5,000 images".
        total: Number of steps; None if unknown.
        stderr: Whether to print the line to stderr.

    Yields:
        A function to call with the number of newly completed steps.
    """
    console = Console(highlight=False)
    bar = Progress(*Progress.get_default_columns(), console=console, transient=True)

    def show() -> None:
        if not console.is_terminal:
            say(f"{description} ...", stderr=stderr)
        elif is_rank_zero():
            with suppress(LiveError):  # another bar is running
                bar.start()

    timer = threading.Timer(max(MIN_DELAY_FRACTION * PROGRESS_DELAY, PROGRESS_DELAY - silence()), show)
    timer.daemon = True
    task = bar.add_task(description, total=total)
    timer.start()
    try:
        yield lambda steps: bar.advance(task, steps)
    finally:
        timer.cancel()
        timer.join()  # or a bar could start later and never stop
        if bar.live.is_started:
            bar.stop()
            note_output()


def line_for(description: str) -> AbstractContextManager[object]:
    """Print a line like `progress`, but only if the output is not a terminal, where Lightning shows its own bar."""
    return nullcontext() if sys.stdout.isatty() else progress(description)


def silence_libraries() -> None:
    """Silence Lightning's announcements, `SILENCED_WARNINGS` and errors in TensorBoard's threads."""
    threading.excepthook = _report_thread
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in SILENCED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Report the error of a thread, unless it is TensorBoard's, which raises it again with the next event."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)


def new_table(title: str, first: str, *numbers: str) -> Table:
    """Return a table without rows: a column of texts, then right-aligned columns of numbers."""
    table = Table(title=title or None, title_justify="left", caption_justify="left")
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def results_table(title: str, metrics: Mapping[str, float]) -> Table:
    """Return a table with one row per metric."""
    table = new_table(title, "metric", "value")
    for name, value in metrics.items():
        table.add_row(name, format_metric(value))
    if not metrics:
        table.add_row("the model logged none", "")
    return table


def as_command(program: str, *arguments: str | Path) -> str:
    """Return a command to type here: with its folder if that is not on the PATH, and with the plug-ins in use."""
    words = [part if isinstance(part, str) else shlex.quote(str(part)) for part in arguments]
    if program == "kindling":
        program = program_name()
        if not any(word.startswith("--plugin") for word in words):
            words.append(plugin_options())
    if not shutil.which(program):
        program = shutil.which(program, path=os.path.relpath(Path(sys.argv[0]).parent)) or program
    return " ".join([program, *filter(None, words)])
