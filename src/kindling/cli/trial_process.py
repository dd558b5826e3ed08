"""Work of the process of `kindling tune` around each trial: progress, output, and cleaning up."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from rich.console import Console


@contextmanager
def status(title: str) -> Iterator[Callable[[str], None]]:
    """Show a line that changes, on a terminal; yield a function to add the progress to it."""
    console = Console(file=sys.stdout, highlight=False)  # the terminal, even while output goes to a file
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(title) as line:
        yield lambda progress: line.update(f"{title}: {progress}")


@contextmanager
def output_in(log: Path) -> Iterator[None]:
    """Append the output of a block to a file."""
    with log.open("a", buffering=1, encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


@contextmanager
def clean_process() -> Iterator[None]:
    """Restore what the training of a trial on several devices leaves behind in this process."""
    before, arguments = os.environ.copy(), sys.argv
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(before)
