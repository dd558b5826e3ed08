"""`kindling tune`: search the hyperparameters of a recipe."""

import argparse
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from kindling.cli.jobs import Job, run_jobs
from kindling.cli.recipes import find_search_space, first_recipe
from kindling.cli.shared_options import new_parser, parse, shared_options
from kindling.runs.folders import check_run_name
from kindling.utils.console import say, silence_libraries
from kindling.utils.cores import share_of_cores
from kindling.utils.errors import UsageError
from kindling.utils.launch import find_launch
from kindling.utils.optional import require_extra
from kindling.utils.text import count_noun

SAMPLERS = ("tpe", "random", "qmc", "gp")
PRUNERS = ("median", "hyperband", "none")
DESCRIPTION = (
    "Search the hyperparameters of a recipe for the best value of the metric that --checkpoint.monitor names. All "
    "other options are those of fit. Each trial is an ordinary run, without a test. After an interruption, the same "
    "command continues."
)


def run(command: str, options: Sequence[str]) -> None:
    """Train trials until the study is complete; print the best ones, and write them into its folder."""
    typed, shared = _parse(options)
    require_extra("tune", "optuna", "plotly")
    from kindling.cli.tune_trials import Search  # needs Optuna
    from kindling.tuning.study import naming_the_database

    silence_libraries()
    if (launch := find_launch()).processes != 1:
        raise UsageError(
            f"tune starts the processes of each trial itself: run it without a launcher ({launch.launcher})"
        )
    search = Search.open(typed, shared)
    is_quiet, failed = typed.worker or typed.format == "json", 0
    try:
        if not typed.worker:
            say(f"{search.study.path}: trials write their output to trial_<number>.log", stderr=is_quiet)
        if typed.jobs > 1:
            failed = _run_workers(options, typed.jobs, is_quiet)
        else:
            with naming_the_database(search.study.storage):
                search.run_trials(typed.trials, typed.timeout, stderr=typed.format == "json")
    except KeyboardInterrupt:
        say("stopped; run the same command again to continue", stderr=is_quiet)
        raise
    if not typed.worker:
        search.report(typed.format)
    if failed:
        raise ValueError(
            f"{count_noun(failed, 'job', 'jobs')} of {typed.jobs} failed; run the same command again to continue"
        )


def _parse(options: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the options of `fit` that all trials share."""
    usage = "--search FILE (--trials N | --timeout TIME) [OPTIONS] [OPTIONS OF FIT]"
    parser = new_parser("tune", usage, DESCRIPTION)
    parser.add_argument("--search", metavar="FILE", help="Search space: a YAML file, or a name in configs/search/.")
    parser.add_argument("--trials", type=int, metavar="N", help="Number of trials, including earlier ones.")
    parser.add_argument("--timeout", type=_seconds, metavar="TIME", help="Start no trial after 90s, 30m or 8h.")
    parser.add_argument("--study", metavar="NAME", help="Folder in runs/. [default: names of the recipe and of FILE]")
    parser.add_argument("--storage", metavar="URL", help="Database of the study. [default: study.db in its folder]")
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="Algorithm that suggests values.")
    parser.add_argument("--pruner", choices=PRUNERS, default="median", help="Rule that stops bad trials early.")
    parser.add_argument("--seed_everything", type=int, metavar="N", help="Seed of all trials and of the suggestions.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # one of several jobs
    jobs = "Trials at the same time; they share the cores."
    typed, others = parse(parser, options, jobs, {"trials": 1}, ("--run_name", "--test_after_fit"))
    if typed.search is None:
        raise UsageError("give a search space: --search FILE, or a name in configs/search/")
    if typed.trials is None and typed.timeout is None:
        raise UsageError("give the number of trials, --trials N, or a time, --timeout 30m")
    typed.search = find_search_space(typed.search)
    recipe = first_recipe(list(map(Path, typed.config))) or "study"
    typed.study = typed.study or f"{recipe}_{Path(typed.search).stem}"
    check_run_name(typed.study, "--study")
    return typed, shared_options(typed, others)


def _seconds(text: str) -> float:
    """Return a time such as 90s, 30m or 8h in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 30m or 8h, got {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _run_workers(options: Sequence[str], jobs: int, is_quiet: bool) -> int:
    """Run this command in several processes, which take the trials of the study in turn; return how many failed."""
    cores = share_of_cores()
    say(f"{jobs} trials at the same time, each with {max(1, cores // jobs)} of {cores} cores", stderr=is_quiet)
    command = Job(["tune", *options, "--jobs=1", "--worker"])
    with closing(run_jobs([command] * jobs, jobs)) as ended:
        return sum(code != 0 for _, code in ended)
