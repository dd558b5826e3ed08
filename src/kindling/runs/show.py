"""One run in full, and the command that repeats it."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Any

import psutil

from kindling.runs.listing import Run
from kindling.runs.metadata import git_commit, versions
from kindling.runs.table import commit, duration, epochs, local_time
from kindling.utils.console import as_command, say
from kindling.utils.errors import UsageError
from kindling.utils.plugins import split_options
from kindling.utils.text import format_metric, strip_control_characters

OFF: tuple[Any, ...] = (None, False, "auto", 0, -1, [], {}, "")  # not used, or left to Lightning
USUAL = {  # of every run that does not say otherwise
    "trainer.num_nodes": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.inference_mode": True,
    "trainer.use_distributed_sampler": True,
    "test_after_fit": True,
}


def show(run: Run) -> None:
    """Prints what is known of a run, its settings, its files, and last how to repeat it."""
    say(run.path)
    _print_rows({name: value for name, value in facts(run) if value})
    told = {name: value for name, value in run.settings().items() if value not in OFF and value != USUAL.get(name)}
    if told:
        say("\nsettings, without what is off (config.yaml has all):")
        _print_rows(told)
    say("\nfiles:")
    for file in sorted(run.path.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            say(f"  {file}")
    say()
    for line in repeat(run):
        say(line)


def _print_rows(rows: Mapping[str, object]) -> None:
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        say(f"  {name:<{width}}  {shown(value)}")


def shown(value: object) -> str:
    """A setting as one reads it: classes of torch and Kindling without their modules, the rest as in YAML."""
    if isinstance(value, str):
        return strip_control_characters(re.sub(r"^(?:kindling|torch)\.(?:\w+\.)*(?=[A-Z])", "", value))
    return (
        "null"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else strip_control_characters(str(value))
    )


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """What its record and its test say, by name."""
    record = run.record
    where = f" (process {record.process.get('pid')} on {record.process.get('host')})" if run.status == "running" else ""
    gone = " (it ended without a word: killed, or the machine went down)"
    yield "status", run.status + where + gone * (run.status == "failed" and record.status == "running")
    if record.reason:
        yield "why", record.reason
    yield "recipe", record.recipe
    yield "started", local_time(record.started)
    yield "last seen", local_time(record.seen)
    yield "time", duration(record.seconds)
    yield "epochs", epochs(run)
    yield "best epoch", str(record.best_epoch or "")
    for name in record.best:
        if name != "epoch":
            yield name, format_metric(run.figure(name))
    for name in run.test:
        yield name, format_metric(run.figure(name))
    yield "commit", commit(run)
    yield "versions", ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield "began from", record.came_from
    for number, typed in enumerate(record.commands):
        yield "typed" if number == 0 else "then", typed


def repeat(run: Run) -> Iterator[str]:
    """How to repeat a run to the same weights: what stands in the way, and last the command."""
    record, config, settings = run.record, run.path / "config.yaml", run.settings()
    if not settings:
        yield "no command repeats it: it has no config.yaml, which fit writes"
        return
    if settings.get("seed_everything") is False:
        yield "its seed is not known (seed_everything: false): repeated, it has other weights"
    now = versions()
    for name, number in record.versions.items():
        if name in now and now[name] != number:
            yield f"it was trained with {name} {number}, here is {now[name]}: other versions may round otherwise"
    here, differs = git_commit()
    if record.commit and record.changed:
        yield f"its files differed from commit {record.commit[:7]}: it repeats exactly only with the same changes"
    elif record.commit == here and differs:
        yield f"files have changed since commit {here[:7]}, by which it was trained: set them aside with git stash"
    yield (
        "to repeat it exactly:"
        if not record.altered
        else "it went on with other settings, code or threads than at first, which no one command repeats; in turn:"
    )
    source = f" --ckpt_path {shlex.quote(record.came_from)}" if record.came_from else ""
    plugins = [f"--plugin {shlex.quote(name)}" for name in plugins_of(record.commands[-1:])]
    once = as_command("kindling", "fit --config", shlex.quote(str(config)), *plugins) + source
    commands, commits, threads = [once], [record.commit], record.threads[-1:]
    if record.altered:
        commands, commits, threads = record.commands, record.commits or [record.commit], record.threads
    for command, then, count in zip_longest(commands, commits[: len(commands)], threads[: len(commands)]):
        if then and then != here:
            yield f"  git checkout {then[:10]}"
        here = then or here
        yield f"  {threads_prefix(count)}{command}"


def plugins_of(commands: list[str]) -> list[str]:
    """Return the values of `--plugin` in commands."""
    with suppress(ValueError, UsageError):  # a record that was altered
        return [name for command in commands for name in split_options(shlex.split(command))[0]]
    return []


def threads_prefix(count: int | None) -> str:
    """What to put before a command that is to have so many threads, where this shell would give it others."""
    usual = os.environ.get("OMP_NUM_THREADS") or str(psutil.cpu_count(logical=False))
    return f"OMP_NUM_THREADS={count} " if count and usual != str(count) else ""
