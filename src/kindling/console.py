"""What a run prints: its own words, and nothing that a library says to someone else."""

import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Each message, by its beginning, with the reason why it says nothing to the person who reads it.
SILENCED = {
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
    r"Image size .* exceeds limit": "photos of 100 megapixels are photos; twice the limit counts as broken",
    r"(Possibly )?corrupt EXIF data": "what a camera noted beside the picture; the picture counts as upright",
    r"``instantiate_classes`` was deprecated": "between lightning and jsonargparse",
    r"\s*By default only one JsonargparseDeprecationWarning": "between lightning and jsonargparse",
}


def say(*what: object) -> None:
    """Prints lines and tables, once however many processes train."""
    lightning = sys.modules.get("lightning.pytorch.utilities")  # its import takes seconds; without it, one process
    if lightning is None or lightning.rank_zero_only.rank == 0:
        Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(*what)


def quiet() -> None:
    """Silences what libraries announce: devices found, tips, seeds, and the warnings above."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message=message)


def results_table(title: str, metrics: Mapping[str, float]) -> Table:
    """The table of a measurement: one line a metric."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    return table


def as_typed(program: str, *arguments: str | Path) -> str:
    """A command as this person can type it here: with its folder where that is not on the PATH."""
    if not shutil.which(program):
        program = shutil.which(program, path=os.path.relpath(Path(sys.argv[0]).parent)) or program
    return " ".join([program, *(part if isinstance(part, str) else shlex.quote(str(part)) for part in arguments)])
