"""`kindling repeat`: train a recipe with several seeds or on several folds, and summarize each metric."""

import argparse
import json
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from kindling.cli.fold_results import combine_folds, predict_command
from kindling.cli.jobs import Job, run_jobs
from kindling.cli.recipes import DEFAULT_SEED, first_recipe, seed_of
from kindling.cli.shared_options import new_parser, parse, shared_options
from kindling.cli.yaml_files import read_recipes
from kindling.runs.folders import ENSEMBLE, LABEL_ERRORS, RUNS, check_run_name, remove_folder, written_checkpoints
from kindling.runs.repeat_results import plot_repeat, repeat_table, summarize
from kindling.runs.repeats import Repeat, digest_files, is_finished
from kindling.runs.run import Run
from kindling.utils.console import say
from kindling.utils.errors import UsageError
from kindling.utils.files import remove_temporary_files, write_json
from kindling.utils.text import count_noun, format_metric, program_name

USAGE_ERROR = 2  # exit code
NO_ENSEMBLE = "different ranges of 16-bit images"  # of the folds, which have no ensemble then; all else is a failure
DESCRIPTION = (
    "Train a recipe with several seeds, or on several folds of the data, and report mean, standard deviation and 95% "
    "confidence interval of each metric. Folds also have one report over all samples, and an ensemble of their models. "
    "All other options are those of fit. Each run is an ordinary run. After an interruption, the same command "
    "continues."
)


def run(command: str, options: Sequence[str]) -> None:
    """Train all runs that are not finished yet; print their summary, and write it into their folder."""
    typed, shared = _parse(options)
    configs = [Path(config) for config in typed.config]
    contents = read_recipes(configs)
    name = typed.run_name or first_recipe(configs) or "repeat"
    repeat = Repeat.open(name, shared, _members(typed, contents), digest_files(shared, contents))
    remove_temporary_files(repeat.path)
    is_json = typed.format == "json"
    try:
        failures = _train(repeat, typed.jobs, writes_logs=is_json or typed.jobs > 1, is_quiet=is_json)
    except KeyboardInterrupt:
        say("stopped; run the same command again to continue", stderr=is_json)
        raise
    metrics, predictions, finished = repeat.metrics(), repeat.write_predictions(), len(repeat.members) - len(failures)
    if repeat.outputs() and not repeat.is_combined():
        problem = _combine_folds(repeat, shlex.join([program_name(), command, *options]))
        if problem and NO_ENSEMBLE in problem:
            say(problem, stderr=is_json)
        elif problem:
            failures.append(problem)
    summary = summarize(metrics, repeat.overlap)
    write_json(repeat.path / "summary.json", summary)
    if is_json:
        print(json.dumps(summary, indent=2))
    elif metrics:
        say(repeat_table(f"{repeat.path}, {count_noun(finished, 'run', 'runs')}", summary))
        if predictions:
            say(f"predictions for all rows: {predictions}")
        say(f"summary: {repeat.path / 'summary.json'}\nplot: {plot_repeat(metrics, repeat.overlap, repeat.path)}")
        if repeat.outputs() and repeat.has_report():
            say(f"report over all folds: {repeat.path / 'report.html'}")
            if (errors := repeat.path / LABEL_ERRORS).exists():
                say(f"likely label errors: {errors}")
        if repeat.outputs() and repeat.is_combined():
            say(f"ensemble of the folds: {repeat.path / ENSEMBLE}")
            say(f"next:\n  {predict_command(repeat.path)}")
    if failures:
        others = "" if len(failures) == 1 else f" and {len(failures) - 1} more"
        raise ValueError(f"{failures[0]}{others}; run the same command again to retry")


def _parse(options: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the options of `fit` that all runs share."""
    parser = new_parser("repeat", "(--seeds N | --folds N) [OPTIONS] [OPTIONS OF FIT]", DESCRIPTION)
    for option, text in (
        ("--seeds", "Number of runs, each with another seed."),
        ("--folds", "Number of folds for cross-validation: each is the test split of one run."),
        ("--seed_everything", f"First seed. [default: that of the recipe, or {DEFAULT_SEED}]"),
    ):
        parser.add_argument(option, type=int, metavar="N", help=text)
    parser.add_argument(
        "--groups", metavar="COLUMN", help="Column of groups that stay in one fold: short for --data.groups."
    )
    parser.add_argument("--run_name", metavar="NAME", help="Folder in runs/. [default: name of the first --config]")
    jobs = "Runs to train at the same time; they share the cores."
    typed, others = parse(parser, options, jobs, {"seeds": 2, "folds": 2})
    if (typed.seeds is None) == (typed.folds is None):
        raise UsageError("give the number of runs, either --seeds N or --folds N")
    if typed.run_name is not None:
        check_run_name(typed.run_name)
    if typed.groups is not None:
        others.append(f"--data.groups={typed.groups}")
    return typed, shared_options(typed, others)


def _members(typed: argparse.Namespace, recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the options in which each run differs, by the name of its folder."""
    first = seed_of(recipes) if typed.seed_everything is None else typed.seed_everything
    if typed.folds is None:
        return {f"seed_{seed}": [f"--seed_everything={seed}"] for seed in range(first, first + typed.seeds)}
    seed = [f"--seed_everything={first}"]
    return {f"fold_{fold}": [*seed, f"--data.fold={fold}/{typed.folds}"] for fold in range(1, typed.folds + 1)}


def _train(repeat: Repeat, at_once: int, writes_logs: bool, is_quiet: bool) -> list[str]:
    """Train the runs that are not finished, and return a line about each that failed.

    Raises:
        UsageError: If the options are invalid, or no run can start; the error is in a log.
        SystemExit: The same, if there is no log; the error has been printed.
    """
    runs = repeat.runs()
    finished = [name for name, run in runs.items() if is_finished(run)]
    names = [name for name in repeat.members if name not in finished]
    if finished and not is_quiet:
        say(f"{repeat.path}: {len(finished)} of {count_noun(len(repeat.members), 'run', 'runs')} finished before")
    jobs = [Job(_command(repeat, name, runs), repeat.path / f"{name}.log" if writes_logs else None) for name in names]
    failures: dict[int, tuple[int, str]] = {}
    with closing(run_jobs(jobs, at_once)) as ended:
        for number, code in ended:
            name, run = names[number], repeat.runs().get(names[number])
            if code:
                failures[number] = code, _reason(code, run, jobs[number].log)
                if code == USAGE_ERROR or not repeat.runs():
                    break  # the others would fail alike
            else:
                finished.append(name)
            if not is_quiet:
                line = f"failed: {failures[number][1]}" if code else _headline(run)
                say(f"{name}: {line} ({len(finished)} of {len(repeat.members)} finished)")
    if failures and not repeat.runs():
        number, (code, reason) = next(iter(failures.items()))
        remove_folder(repeat.path)
        raise UsageError(reason) if jobs[number].log else SystemExit(code)
    return [f"{repeat.path / names[number]} failed: {reason}" for number, (_, reason) in failures.items()]


def _combine_folds(repeat: Repeat, typed: str) -> str:
    """Write the report over all folds and their ensemble; return why one is missing, else nothing."""
    for run in (repeat.path / ENSEMBLE).glob("version_*"):
        if not written_checkpoints(run):  # killed
            shutil.rmtree(run)
    log = repeat.path / f"{ENSEMBLE}.log"
    job = Job([str(repeat.path), typed, *_plugins(repeat)], log, combine_folds)
    [(_, code)] = run_jobs([job], 1)
    missing = "ensemble of the folds" if repeat.has_report() else "report over all folds, and no ensemble"
    return f"no {missing}: {_reason(code, None, log)}" if code else ""


def _plugins(repeat: Repeat) -> list[str]:
    return [option for option in repeat.command if option.startswith("--plugin=")]


def _reason(code: int, run: Run | None, log: Path | None) -> str:
    """Return why a command failed: its signal, the reason in its record, the error line in its log, or its code."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if run and run.metadata.reason:
        return run.metadata.reason
    lines = log.read_text(errors="replace").splitlines() if log else []
    errors = [line.partition(": error: ")[2] for line in lines if ": error: " in line]
    return errors[-1] if errors else f"exit code {code}"


def _command(repeat: Repeat, name: str, runs: Mapping[str, Run]) -> list[str]:
    """Return the command that trains a run, or resumes it if it has a checkpoint."""
    if name in runs and (last := runs[name].path / "checkpoints" / "last.ckpt").exists():
        return ["fit", "--ckpt_path", str(last), *_plugins(repeat)]
    folder = repeat.path.relative_to(RUNS) / name
    return ["fit", *repeat.command, *repeat.members[name], f"--run_name={folder}"]


def _headline(run: Run | None) -> str:
    """Return the most important metrics of a run."""
    metrics = run.test or run.metadata.best if run else {}
    return "  ".join(f"{name} {format_metric(value)}" for name, value in metrics.items() if name != "epoch")
