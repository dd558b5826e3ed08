"""`kindling runs`, `kindling runs show` and `kindling runs compare`."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from kindling.runs.compare import compare
from kindling.runs.folders import RUNS
from kindling.runs.listing import Run, find_run, find_runs, sort_by_start
from kindling.runs.show import show
from kindling.runs.table import COLUMNS, format_table, sort_by
from kindling.utils.console import as_command, say
from kindling.utils.errors import UsageError, UsageErrorParser
from kindling.utils.plugins import split_options
from kindling.utils.text import program_name


def run(command: str, options: Sequence[str]) -> None:
    """Lists the runs, shows one, or compares several."""
    options = split_options(options)[1]  # runs are listed without their classes
    what, *rest = options or [""]
    try:
        {"show": _show, "compare": _compare}.get(what, _list)(rest if what in ("show", "compare") else options)
        sys.stdout.flush()
    except BrokenPipeError:  # of `kindling runs | head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list(options: Sequence[str]) -> None:
    name = program_name()
    parser = UsageErrorParser(
        f"{name} runs",
        usage=f"{name} runs [FOLDER ...] [--sort COLUMN]\n       {name} runs show RUN\n       "
        f"{name} runs compare RUN RUN ...",
        description="Lists what was trained, the newest last. A RUN goes by its folder, by the end of that "
        "(quickstart/version_0), or by its recipe (quickstart: the newest of it).",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", type=Path, help="Where to look; by default in runs.")
    parser.add_argument("--sort", metavar="COLUMN", help=f"The best of it last: {', '.join(COLUMNS)}.")
    typed = parser.parse_args(options)
    for folder in typed.folders:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: {name} runs [FOLDER ...], or runs show, runs compare")
    runs = sort_by_start(Run.read(path) for folder in typed.folders or [RUNS] for path in find_runs(folder))
    if typed.sort:
        runs = sort_by(runs, typed.sort)
    if runs:
        print(format_table(runs, shutil.get_terminal_size().columns if sys.stdout.isatty() else None, typed.sort))
    else:
        where = " ".join(map(str, typed.folders)) or RUNS
        say(f"no runs in {where} yet: " + as_command("kindling", "fit --config quickstart", "makes one"))


def _show(options: Sequence[str]) -> None:
    parser = UsageErrorParser(
        f"{program_name()} runs show", description="Shows a run, and the command that repeats it."
    )
    parser.add_argument("run", metavar="RUN", help="Its folder, or a part of it: quickstart/version_0, quickstart.")
    show(Run.read(find_run(parser.parse_args(options).run)))


def _compare(options: Sequence[str]) -> None:
    parser = UsageErrorParser(
        f"{program_name()} runs compare", description="Shows how runs differ, and draws their curves as one plot."
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Two or more, each as in runs show.")
    paths = [find_run(name) for name in parser.parse_args(options).runs]
    places = [path.resolve() for path in paths]
    twice = [path for number, path in enumerate(paths) if places[number] in places[:number]]
    if twice:
        raise UsageError(f"{twice[0]} is named twice: give different runs to compare")
    if len(paths) < 2:
        raise UsageError(f"compare needs two runs or more: {program_name()} runs compare {paths[0]} ANOTHER")
    compare([Run.read(path) for path in paths])
