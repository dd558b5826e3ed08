"""`fit --ckpt_path auto`: resume the run that the same command has started, or start a new one."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from kindling.cli.command_line import group_options, option_name, option_values, resumes_automatically
from kindling.runs.folders import RUNS, written_checkpoints
from kindling.runs.metadata import FILE, RunMetadata, claim, status_of
from kindling.runs.process import current_job, heartbeat_age, is_elsewhere
from kindling.runs.repeats import is_finished
from kindling.runs.run import Run, find_runs
from kindling.training.completion import CompleteError
from kindling.training.rank_zero_decision import decide_once
from kindling.utils.console import say
from kindling.utils.files import locked
from kindling.utils.slurm import is_queued
from kindling.utils.text import join_names, natural_key

# Options that say how long and on which devices a run trains, or what is reported: a run may resume with others.
FREE = ("trainer", "checkpoint", "early_stopping", "test_after_fit", "profile", "watch", "data.num_workers")
POLL_SECONDS = 5.0  # between two looks at a run on another host
DRY = {"-h", "--help", "--print_config", "--overfit", "--find_lr", "--trainer.fast_dev_run"}  # they train no run


@dataclass(frozen=True)
class AutoResume:
    """The result of resolving `--ckpt_path auto`.

    Attributes:
        options: The options of the command with the run in place of `auto`, or without `--ckpt_path`.
        restarted: Run folder whose run has ended before its first `last.ckpt`, and starts over.
    """

    options: list[str]
    restarted: Path | None = None

    @classmethod
    def of(cls, options: Sequence[str]) -> "AutoResume | None":
        """Resolve `auto`, with the same result in all processes; return None if the options do not have it.

        Raises:
            CompleteError: If the run is complete, and has no checkpoint from which it could be trained longer.
        """
        if not resumes_automatically(options):
            return None
        others = [part for option in group_options(options) if option_name(option) != "ckpt_path" for part in option]
        kind, _, run = decide_once(lambda: _decide(options)).partition(" ")
        if kind == "resume":
            return cls([*others, "--ckpt_path", run])
        if kind == "complete":
            raise CompleteError(f"{run} is complete, and has no checkpoint to continue from")
        return cls(others, Path(run) if run else None)


def _decide(options: Sequence[str]) -> str:
    """Return the decision about the newest run of the same command: resume, restart or complete, and its folder.

    Runs that another process trains or another job will resume are left out. Empty if there is none.
    """
    heartbeats: dict[Path, str] = {}
    while (decision := _try_to_decide(options, heartbeats)) is None:
        sleep(POLL_SECONDS)
    return decision


def _try_to_decide(options: Sequence[str], heartbeats: dict[Path, str]) -> str | None:
    """Return the decision, or None if it depends on a run on another host that may have been killed.

    Args:
        options: Options of the command.
        heartbeats: The first heartbeat seen of each such run; the run is alive once it has written another one.
    """
    wanted = _identity(options)
    is_dry = bool(DRY.intersection(part.partition("=")[0] for part in options))
    with locked(RUNS / ".auto.lock"):  # two commands that start at the same time don't choose the same run
        runs = _own_runs()
        same = [(run, metadata) for run, metadata in runs if _identity_of(metadata) == wanted]
        job = current_job().get("job", "")
        same.sort(key=lambda one: (one[1].process.get("job") == job, one[1].started, natural_key(str(one[0]))))
        for run, metadata in reversed(same):
            if not _is_left(metadata, job):
                continue
            if status_of(metadata) == "running":
                if is_elsewhere(metadata.process) and not is_dry and not _has_advanced(run, metadata, heartbeats):
                    return None
                continue
            checkpoints = run / "checkpoints"
            kind = "resume" if (checkpoints / "last.ckpt").exists() else "restart"
            others = written_checkpoints(run)
            if metadata.status == "finished" and (kind == "resume" or is_finished(Run.read(run)) or not others):
                return f"{kind.replace('restart', 'complete')} {run}"
            if others and ((metadata.epochs or 0) > 1 or (checkpoints / "previous.ckpt").exists()):
                kind = "resume"  # last.ckpt was deleted: the error names the others, which are not cleared
            if not is_dry:
                claim(run, metadata)
            return f"{kind} {run}"
    if not same and not is_dry:
        _explain_new_run(wanted, runs)
    return ""


def _has_advanced(run_folder: Path, metadata: RunMetadata, heartbeats: dict[Path, str]) -> bool:
    """Return whether a run has written a heartbeat since it was first looked at; print what the command does."""
    host = metadata.process.get("host")
    if run_folder not in heartbeats:
        heartbeats[run_folder] = metadata.heartbeat
        age = f"last heartbeat {heartbeat_age(metadata.heartbeat):.0f} s ago"
        say(f"{run_folder} may still be training on {host} ({age}): waiting for its next one", stderr=True)
    elif heartbeats[run_folder] != metadata.heartbeat:
        say(f"{run_folder} is still training on {host}: it is not resumed here", stderr=True)
        return True
    return False


def _explain_new_run(wanted: list[list[str]], runs: Sequence[tuple[Path, RunMetadata]]) -> None:
    """Print which options prevent the newest unfinished run of the same recipe from being resumed."""
    for run, metadata in sorted(runs, key=lambda one: one[1].started, reverse=True):
        found = _identity_of(metadata)
        if status_of(metadata) in ("finished", "running") or found is None or found[:1] != wanted[:1]:
            continue
        names = dict.fromkeys(
            f"--{option[0]}" for option in (*found, *wanted) if (option in found) != (option in wanted)
        )
        differ = f"different options: {join_names([*names])}" if names else "the same options in a different order"
        say(f"--ckpt_path auto starts a new run: {run}, which is not complete, was started with {differ}", stderr=True)
        return


def _own_runs() -> list[tuple[Path, RunMetadata]]:
    """Return the runs that this user has started, and their metadata."""
    files = [run / FILE for run in find_runs(RUNS) if (run / FILE).is_file()]
    own = [file for file in files if not hasattr(os, "getuid") or file.stat().st_uid == os.getuid()]
    return [(file.parent, RunMetadata.read(file.parent)) for file in own]


def _identity_of(metadata: RunMetadata) -> list[list[str]] | None:
    """Return the `_identity` of the command that started a run; None if it is not `fit`."""
    try:
        _, command, *options = shlex.split(metadata.commands[0]) if metadata.commands else ["", ""]
    except ValueError:
        return None
    return _identity(options) if command == "fit" else None


def _identity(options: Sequence[str]) -> list[list[str]]:
    """Return the options that decide which run a command trains: all but `FREE` ones and `--ckpt_path auto`."""
    groups = [option for option in group_options(options) if not resumes_automatically(option)]
    named = [(option_name(option), option_values(option)) for option in groups]
    return [[name, *values] for name, values in named if not {name, name.split(".")[0]}.intersection(FREE)]


def _is_left(metadata: RunMetadata, job: str) -> bool:
    """Return whether no other job will resume a run, as one that waits or another task of a job array may."""
    other = str(metadata.process.get("job", ""))
    if other in ("", job):
        return True
    if not other.startswith("slurm "):
        return True
    is_sibling = "_" in job and other.partition("_")[0] == job.partition("_")[0]
    return not is_sibling and not is_queued(other.removeprefix("slurm "))
