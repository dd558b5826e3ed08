"""Options that commands which train several runs, `repeat` and `tune`, have in common."""

import argparse
from collections.abc import Mapping, Sequence

from kindling.cli.option_formatter import OptionFormatter
from kindling.cli.recipes import find_recipes
from kindling.utils.errors import UsageError, UsageErrorParser
from kindling.utils.plugins import add_option
from kindling.utils.text import program_name

OF_SINGLE_RUNS = ("--ckpt_path", "--overfit", "--find_lr", "--print_config", "--trainer.fast_dev_run")


def new_parser(command: str, usage: str, description: str) -> UsageErrorParser:
    """Return a parser without options."""
    name = f"{program_name()} {command}"
    return UsageErrorParser(name, usage=f"{name} {usage}", description=description, formatter_class=OptionFormatter)


def parse(
    parser: UsageErrorParser, options: Sequence[str], jobs: str, least: Mapping[str, int], single: Sequence[str] = ()
) -> tuple[argparse.Namespace, list[str]]:
    """Add the common options to a parser, and parse a command line.

    Args:
        parser: The parser with the other options of the command.
        options: The command line.
        jobs: Description of `--jobs`.
        least: Minimum of each number among the options.
        single: Options of `fit` that are for a single run, apart from `OF_SINGLE_RUNS`.

    Returns:
        The options of the command, and the options of `fit`.

    Raises:
        UsageError: If a number is too small, or an option of `fit` is for a single run.
    """
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help=jobs)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="Output format.")
    parser.add_argument("-c", "--config", action="append", default=[], metavar="RECIPE", help="As in fit.")
    add_option(parser)
    typed, others = parser.parse_known_args(find_recipes(options))
    parser.check_typos(others)
    for option, minimum in {"jobs": 1, **least}.items():
        if (value := getattr(typed, option)) is not None and value < minimum:
            raise UsageError(f"--{option} must be at least {minimum}, got {value}")
    if found := [option for option in others if option.partition("=")[0] in (*OF_SINGLE_RUNS, *single)]:
        raise UsageError(f"{found[0]} is for a single run: use {program_name()} fit")
    return typed, others


def shared_options(typed: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """Return the options of `fit` that all runs share: plug-ins and recipes first."""
    plugins = (f"--plugin={plugin}" for plugin in typed.plugin or ())
    return [*plugins, *(f"--config={config}" for config in typed.config), *others]
