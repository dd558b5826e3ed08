"""The commands `kindling runs`, `kindling runs show` and `kindling runs compare`."""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from kindling.cli.option_formatter import OptionFormatter
from kindling.runs.compare import compare
from kindling.runs.compare_repeats import compare_repeats
from kindling.runs.folders import RUNS
from kindling.runs.repeats import find_repeat
from kindling.runs.run import Run, find_run, find_runs, sort_by_start
from kindling.runs.runs_export import format_csv, format_json
from kindling.runs.runs_table import COLUMNS, format_table, sort_by
from kindling.runs.show import show
from kindling.utils.console import as_command, progress, say
from kindling.utils.errors import UsageError, UsageErrorParser
from kindling.utils.plugins import split_options
from kindling.utils.text import program_name

FORMATS = {"json": format_json, "csv": format_csv}


def run(command: str, options: Sequence[str]) -> None:
    """List runs, show one, or compare several."""
    options = split_options(options)[1]  # no plug-ins are needed
    subcommands = {"show": _show, "compare": _compare}
    if len(options) == 1 and options[0] in subcommands:
        raise UsageError(f"{options[0]} needs a run folder or recipe: {program_name()} runs lists all")
    try:
        if options and options[0] in subcommands:
            subcommands[options[0]](options[1:])
        else:
            _list(options)
        sys.stdout.flush()
    except BrokenPipeError:  # of `kindling runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list(options: Sequence[str]) -> None:
    name = program_name()
    parser = UsageErrorParser(
        f"{name} runs",
        usage=f"{name} runs [FOLDER ...] [--sort COLUMN] [--format FORMAT]\n       {name} runs show RUN\n       "
        f"{name} runs compare RUN RUN ...",
        description="List runs, newest last. RUN is a folder, with or without runs/ (quickstart/version_0), or a "
        "recipe, which stands for its newest run (quickstart).",
        formatter_class=OptionFormatter,
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", type=Path, help="Folders with runs. [default: runs]")
    parser.add_argument("--sort", metavar="COLUMN", help=f"Sort, best last, by: {', '.join(COLUMNS)}.")
    parser.add_argument(
        "--format",
        choices=["table", *FORMATS],
        default="table",
        help="Output format; json and csv are for other programs.",
    )
    typed = parser.parse_args(options)
    for folder in typed.folders:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: {name} runs [FOLDER ...], or runs show, runs compare")
    paths = [path for folder in typed.folders or [RUNS] for path in find_runs(folder)]
    is_terminal = sys.stdout.isatty()
    # Nothing but the table goes into a pipe.
    bar = progress(f"reading {len(paths):,} runs", len(paths)) if is_terminal else nullcontext(lambda _: None)
    runs = []
    with bar as advance:
        for path in paths:
            runs.append(Run.read(path))
            advance(1)
    runs = sort_by_start(runs)
    if typed.sort:
        runs = sort_by(runs, typed.sort)
    if typed.format in FORMATS:
        print(FORMATS[typed.format](runs))
    elif runs:
        print(format_table(runs, shutil.get_terminal_size().columns if is_terminal else None, typed.sort))
    else:
        where = " ".join(map(str, typed.folders)) or RUNS
        say(f"no runs in {where} yet: " + as_command("kindling", "fit --config quickstart", "makes one"))


def _show(options: Sequence[str]) -> None:
    parser = UsageErrorParser(
        f"{program_name()} runs show",
        description="Show a run, and the command that reproduces it.",
        formatter_class=OptionFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="Run folder or recipe: quickstart/version_0, quickstart.")
    show(Run.read(find_run(parser.parse_args(options).run)))


def _compare(options: Sequence[str]) -> None:
    parser = UsageErrorParser(
        f"{program_name()} runs compare",
        description="Show the differences between runs, and plot their curves.",
        formatter_class=OptionFormatter,
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="Two or more, each as in runs show; or two repeats: quickstart/repeat_0 quickstart/repeat_1.",
    )
    names = parser.parse_args(options).runs
    repeats = [repeat for name in names if (repeat := find_repeat(name))]
    if len(repeats) == len(names) == 2 and repeats[0].path.resolve() != repeats[1].path.resolve():
        compare_repeats(*repeats)
        return
    paths = [find_run(name) for name in names]
    resolved = [path.resolve() for path in paths]
    if duplicates := [path for path in paths if resolved.count(path.resolve()) > 1]:
        raise UsageError(f"{duplicates[-1]} is given twice: compare different runs")
    if len(paths) < 2:
        raise UsageError(f"compare needs at least two runs: {program_name()} runs compare {paths[0]} ANOTHER")
    compare([Run.read(path) for path in paths])
