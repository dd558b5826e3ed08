"""Several runs side by side: how they were set, what came out, and their curves in one plot."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kindling.runs.folders import RUNS
from kindling.runs.listing import Run
from kindling.runs.plots import plot_runs
from kindling.runs.show import OFF, shown
from kindling.runs.table import commit, duration, epochs
from kindling.utils.console import say
from kindling.utils.text import format_metric

UNTOLD = ("run_name", "ckpt_path")  # a new name makes no other run


def compare(runs: Sequence[Run]) -> None:
    """Prints a table of what differs between runs, and draws `compare.png`."""
    table = Table()
    table.add_column("", no_wrap=True)
    for name in names(runs):
        table.add_column(name, justify="right", overflow="fold")
    for name, values in outcomes(runs).items():
        table.add_row(name, *values)
    differing = differences(runs)
    if differing:
        table.add_section()
    for name, values in differing.items():
        table.add_row(name, *values)
    # In a pipe nothing is cut or folded.
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, markup=False, emoji=False).print(table)
    if not differing:
        say("their settings are the same")
    histories = {name: history for name, run in zip(names(runs), runs, strict=True) if (history := run.history())}
    if histories:
        say(f"curves: {plot_runs(histories, (RUNS if RUNS.is_dir() else Path()) / 'compare.png')}")


def names(runs: Sequence[Run]) -> list[str]:
    """Folders without runs/ before them, or in full where that tells them not apart."""
    short = ["/".join(run.path.parts[-2:]) for run in runs]
    return short if len(set(short)) == len(short) else [str(run.path) for run in runs]


def outcomes(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What came out of each run, by name."""
    rows = {
        "status": [run.status for run in runs],
        "epochs": [epochs(run) for run in runs],
        "best epoch": [str(run.record.best_epoch or "") for run in runs],
    }
    for name in dict.fromkeys(name for run in runs for name in (*run.record.best, *run.test) if name != "epoch"):
        rows[name] = [format_metric(run.figure(name)) for run in runs]
    rows |= {"time": [duration(run.record.seconds) for run in runs], "commit": [commit(run) for run in runs]}
    return {name: values for name, values in rows.items() if any(values)}


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs, by the names of their options.

    Without those that only another class has, and that are off there.
    """
    settings = [run.settings() for run in runs]
    rows = {}
    for name in dict.fromkeys(name for one in settings for name in one if name not in UNTOLD):
        values = [one[name] for one in settings if name in one]
        is_off = len(values) < len(runs) and all(value in OFF for value in values)
        if not is_off and (len(values) < len(runs) or any(value != values[0] for value in values)):
            rows[name] = [shown(one[name]) if name in one else "" for one in settings]
    return rows
