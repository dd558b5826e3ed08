"""Details of a run, and the command that reproduces it."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Any

import psutil

from kindling.runs.metadata import git_commit, versions
from kindling.runs.run import Run
from kindling.runs.runs_table import format_commit, format_duration, format_epochs, local_time
from kindling.utils.console import as_command, say
from kindling.utils.errors import UsageError
from kindling.utils.plugins import split_options
from kindling.utils.text import format_metric, strip_control_characters

UNSET: tuple[Any, ...] = (None, False, 0, -1, [], {}, "")  # off, or Lightning's choice
DEFAULTS = {
    "data.task": "auto",
    "trainer.accelerator": "auto",
    "trainer.devices": "auto",
    "trainer.strategy": "auto",
    "trainer.num_nodes": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.inference_mode": True,
    "trainer.use_distributed_sampler": True,
    "test_after_fit": True,
}


def show(run: Run) -> None:
    """Print the metadata of a run, its settings, its files, and how to reproduce it."""
    say(run.path)
    _print_rows({name: value for name, value in describe(run) if value})
    settings = {name: value for name, value in run.settings().items() if value not in UNSET}
    settings = {name: value for name, value in settings.items() if value != DEFAULTS.get(name)}
    if settings:
        say("\nsettings (all are in config.yaml):")
        _print_rows(settings)
    say("\nfiles:")
    for file in sorted(run.path.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            say(f"  {file}")
    say()
    for line in reproduce(run):
        say(line)


def _print_rows(rows: Mapping[str, object]) -> None:
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        say(f"  {name:<{width}}  {format_setting(value)}")


def format_setting(value: object) -> str:
    """Return a setting as in YAML; classes of torch and Kindling without their modules."""
    if isinstance(value, str):
        return strip_control_characters(re.sub(r"^(?:kindling|torch)\.(?:\w+\.)*(?=[A-Z])", "", value))
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return strip_control_characters(str(value))


def describe(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each known property of a run."""
    record = run.metadata
    status = run.status
    if run.status == "running":
        status += f" (process {record.process.get('pid')} on {record.process.get('host')})"
    elif run.status == "failed" and record.status == "running":
        status += " (killed, or the machine went down)"
    yield "status", status
    yield "error", record.reason
    yield "recipe", record.recipe
    yield "started", local_time(record.started)
    yield "last seen", local_time(record.heartbeat)
    yield "time", format_duration(record.seconds)
    yield "epochs", format_epochs(run)
    yield "best epoch", str(record.best_epoch or "")
    for name in record.best:
        if name != "epoch":
            yield name, format_metric(run.metric(name))
    for name in run.test:
        yield name, format_metric(run.metric(name))
    yield "commit", format_commit(run)
    yield "versions", ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield "started from", record.parent
    for number, command in enumerate(record.commands):
        yield "command" if number == 0 else f"resume {number}", command


def reproduce(run: Run) -> Iterator[str]:
    """Yield lines on how to train the same weights again: first the obstacles, then the commands."""
    record, config, settings = run.metadata, run.path / "config.yaml", run.settings()
    if not settings:
        yield "this run can't be reproduced: its config.yaml is missing"
        return
    if settings.get("seed_everything") is False:
        yield "the seed is unknown (seed_everything: false): the weights will differ"
    now = versions()
    for name, number in record.versions.items():
        if name in now and now[name] != number:
            yield f"trained with {name} {number}, installed is {now[name]}: results may differ slightly"
    here, differs = git_commit()
    if record.commit and record.changed:
        yield f"there were uncommitted changes to commit {record.commit[:7]}: exact only with the same changes"
    elif record.commit == here and differs:
        yield f"there are uncommitted changes to commit {here[:7]}: run git stash first"
    if record.modified:
        yield "this run was resumed with other settings, code or threads; to reproduce it, run in order:"
    else:
        yield "to reproduce it exactly:"
    source = f" --ckpt_path {shlex.quote(record.parent)}" if record.parent else ""
    plugins = [f"--plugin {shlex.quote(name)}" for name in plugins_of(record.commands[-1:])]
    command = as_command("kindling", "fit --config", shlex.quote(str(config)), *plugins) + source
    commands, commits, threads = [command], [record.commit], record.threads[-1:]
    if record.modified:
        commands, commits, threads = record.commands, record.commits or [record.commit], record.threads
    for command, then, count in zip_longest(commands, commits[: len(commands)], threads[: len(commands)]):
        if then and then != here:
            yield f"  git checkout {then[:10]}"
        here = then or here
        yield f"  {threads_prefix(count)}{command}"


def plugins_of(commands: list[str]) -> list[str]:
    """Return the values of `--plugin` in commands."""
    with suppress(ValueError, UsageError):  # run.json was edited
        return [name for command in commands for name in split_options(shlex.split(command))[0]]
    return []


def threads_prefix(count: int | None) -> str:
    """Return the prefix of a command that sets its number of threads; empty if that is the default here."""
    default = os.environ.get("OMP_NUM_THREADS") or str(psutil.cpu_count(logical=False))
    return f"OMP_NUM_THREADS={count} " if count and default != str(count) else ""
