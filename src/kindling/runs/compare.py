"""Comparison of runs: results, differing settings, and a plot of their curves."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kindling.runs.folders import RUNS
from kindling.runs.plots import plot_runs
from kindling.runs.run import Run
from kindling.runs.runs_table import format_commit, format_duration, format_epochs
from kindling.runs.show import UNSET, format_setting
from kindling.utils.console import say
from kindling.utils.text import format_metric

IGNORED_OPTIONS = ("run_name", "ckpt_path")


def compare(runs: Sequence[Run]) -> None:
    """Print a table of the results and differing settings of runs, and draw `compare.png`."""
    table = Table()
    table.add_column("", no_wrap=True)
    for name in names(runs):
        table.add_column(name, justify="right", overflow="fold")
    for name, values in results(runs).items():
        table.add_row(name, *values)
    differing = differences(runs)
    if differing:
        table.add_section()
    for name, values in differing.items():
        table.add_row(name, *values)
    # Do not wrap the output of a pipe.
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, markup=False, emoji=False).print(table)
    if not differing:
        say("the settings are identical")
    histories = {name: history for name, run in zip(names(runs), runs, strict=True) if (history := run.history())}
    if histories:
        say(f"curves: {plot_runs(histories, (RUNS if RUNS.is_dir() else Path()) / 'compare.png')}")


def names(runs: Sequence[Run]) -> list[str]:
    """Return the last two folders of each run, or the full paths if those are not unique."""
    short = ["/".join(run.path.parts[-2:]) for run in runs]
    return short if len(set(short)) == len(short) else [str(run.path) for run in runs]


def results(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the results of all runs by name."""
    rows = {
        "status": [run.status for run in runs],
        "epochs": [format_epochs(run) for run in runs],
        "best epoch": [str(run.metadata.best_epoch or "") for run in runs],
    }
    for name in dict.fromkeys(name for run in runs for name in (*run.metadata.best, *run.test) if name != "epoch"):
        rows[name] = [format_metric(run.metric(name)) for run in runs]
    rows["time"] = [format_duration(run.metadata.seconds) for run in runs]
    rows["commit"] = [format_commit(run) for run in runs]
    return {name: values for name, values in rows.items() if any(values)}


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings that differ between runs, by option.

    A setting that only some runs have counts as different, unless it is off in those.
    """
    settings = [run.settings() for run in runs]
    rows = {}
    for name in dict.fromkeys(name for one in settings for name in one if name not in IGNORED_OPTIONS):
        values = [one[name] for one in settings if name in one]
        is_missing = len(values) < len(runs)
        is_off = is_missing and all(value in UNSET for value in values)
        if not is_off and (is_missing or any(value != values[0] for value in values)):
            rows[name] = [format_setting(one[name]) if name in one else "" for one in settings]
    return rows
