"""`kindling check`: check the data of a recipe before any training."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch import seed_everything

from kindling.cli.check_terminal import format_counts, print_report
from kindling.cli.data_options import create_data, data_parser, parse_data
from kindling.data.checks import inspect_data
from kindling.utils.console import say, silence_libraries
from kindling.utils.errors import UsageError

OPTIONS = {
    "--format": "Output format.",
    "--strict": "Also end with 1 if there are only warnings.",
    "--out": "File of a page with thumbnails of the images that were found, such as check.html.",
    "--ignore": "Checks whose findings are left out, such as [groups, small].",
}


def run(command: str, options: Sequence[str]) -> None:
    """Check data with the options on the command line.

    Raises:
        ValueError: If there are errors, or warnings with `--strict`.
        UsageError: If the options are invalid.
    """
    silence_libraries()
    parser = data_parser(command)
    parser.add_argument("--format", choices=["text", "json"], default="text", help=OPTIONS["--format"])
    parser.add_argument("--strict", action="store_true", help=OPTIONS["--strict"])
    parser.add_argument("--out", type=str, default=None, help=OPTIONS["--out"])
    parser.add_argument("--ignore", type=list[str], default=[], help=OPTIONS["--ignore"])
    config, seed = parse_data(parser, command, options, OPTIONS)
    if config["out"] and not Path(config["out"]).parent.is_dir():
        raise UsageError(f"--out {config['out']}: there is no folder {Path(config['out']).parent}")
    seed_everything(seed, verbose=False)
    with redirect_stdout(sys.stderr):  # of progress: only the report goes into a pipe
        report = inspect_data(create_data(parser, config), config["ignore"])
    if config["out"]:
        from kindling.cli.check_report import write_check_page

        write_check_page(report, Path(config["out"]))
    failed = bool(report.count("error") or (config["strict"] and report.count("warning")))
    if config["format"] == "json":
        counts = {"errors": report.count("error"), "warnings": report.count("warning"), "exit_code": int(failed)}
        print(json.dumps(asdict(report) | counts, indent=1, ensure_ascii=False))
    else:
        print_report(report)
        if config["out"]:
            say(f"page: {config['out']}")
    if failed:
        raise ValueError(f"{report.source}: {format_counts(report)}; each is listed above with what to do")
