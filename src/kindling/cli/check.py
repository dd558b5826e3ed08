"""`kindling check`: check the data of a recipe before any training."""

import json
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse._actions import ActionConfigFile
from lightning.pytorch import LightningDataModule, seed_everything

from kindling.cli.check_page import format_counts, print_report
from kindling.cli.class_names import NOUNS
from kindling.cli.modules import KeptError
from kindling.cli.parser import KindlingArgumentParser
from kindling.cli.parser_errors import one_line
from kindling.cli.recipes import find_recipes, seed_of
from kindling.cli.sources import classes_first
from kindling.cli.yaml_files import check_typed, read_yaml
from kindling.data.checks import inspect_data
from kindling.utils.console import silence_libraries
from kindling.utils.errors import UsageError
from kindling.utils.plugins import load_plugins
from kindling.utils.text import program_name, shorten

OPTIONS = {
    "--format": "Output.",
    "--strict": "Also end with 1 if there are only warnings.",
    "--ignore": "Checks whose findings are left out, such as [groups, small].",
}


def run(command: str, options: Sequence[str]) -> None:
    """Check data with the options on the command line.

    Raises:
        ValueError: If there are errors, or warnings with `--strict`.
        UsageError: If the options are invalid.
    """
    silence_libraries()
    typed = classes_first(find_recipes(load_plugins(options)))
    check_typed(typed)
    arguments, seed = _data_options(typed)
    parser = _parser(command)
    try:
        config = parser.parse_args(arguments)
    except ArgumentError as error:
        known = {*parser.get_defaults().keys(branches=True), *NOUNS}
        raise UsageError(_explain(one_line(str(error), known, typed), typed)) from error
    seed_everything(seed, verbose=False)
    with redirect_stdout(sys.stderr):  # of progress: only the report goes into a pipe
        report = inspect_data(_create(parser, config), config["ignore"])
    failed = bool(report.count("error") or (config["strict"] and report.count("warning")))
    if config["format"] == "json":
        counts = {"errors": report.count("error"), "warnings": report.count("warning"), "exit_code": int(failed)}
        print(json.dumps(report.as_dict() | counts, indent=1, ensure_ascii=False))
    else:
        print_report(report)
    if failed:
        raise ValueError(f"{report.source}: {format_counts(report)}; each is listed above with what to do")


def _parser(command: str) -> KindlingArgumentParser:
    parser = KindlingArgumentParser(
        prog=f"{program_name()} {command}", exit_on_error=False, allow_abbrev=False, default_env=False
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=True)
    parser.add_argument("--format", choices=["text", "json"], default="text", help=OPTIONS["--format"])
    parser.add_argument("--strict", action="store_true", help=OPTIONS["--strict"])
    parser.add_argument("--ignore", type=list[str], default=[], help=OPTIONS["--ignore"])
    return parser


def _data_options(typed: Sequence[str]) -> tuple[list[str], int]:
    """Return the options with the data of each recipe in place of the recipe, and the seed of the recipes."""
    arguments: list[str] = []
    recipes: list[dict[str, Any]] = []
    words = iter(typed)
    for word in words:
        if not (found := re.fullmatch(r"--config(?:=(.*))?|-c=?(.*)", word, re.DOTALL)):
            arguments.append(word)
            continue
        recipes.append(_read_recipe(found[1] or found[2] or next(words, "")))
        if (data := recipes[-1].get("data")) is not None:
            arguments += ["--config", yaml.safe_dump({"data": data})]
    return arguments, seed_of(recipes)


def _read_recipe(value: str) -> dict[str, Any]:
    """Return the options of a recipe: a file, or YAML on the command line."""
    if Path(value).is_file():
        return read_yaml(Path(value))
    try:
        recipe = yaml.safe_load(value)
    except yaml.YAMLError:
        recipe = None
    if not isinstance(recipe, dict):
        raise UsageError(f"config: {shorten(value, 60)} is not a YAML file with options")
    return recipe


def _explain(message: str, typed: Sequence[str]) -> str:
    """Return the error message of the parser, with what to do about options of a training."""
    others = [word.partition("=")[0] for word in typed if word.startswith("--")]
    known = ("--data", *OPTIONS)
    other = next((name for name in others if not name.startswith((*known, "--config", "--help"))), "")
    if other and message.startswith("there is no option"):
        return f"{message}: check takes the options of the data only, and ignores the rest of a recipe"
    return message


def _create(parser: KindlingArgumentParser, config: Namespace) -> LightningDataModule:
    """Create the data module."""
    kept = KeptError()

    def create(kind: type[LightningDataModule], *args: Any, **kwargs: Any) -> LightningDataModule:
        kwargs.pop("applied_instantiation_links", None)
        with kept.keep(kind.__name__):
            return kind(*args, **kwargs)

    parser.instantiators = [(create, LightningDataModule, True)]
    with kept.raised():
        data: LightningDataModule = parser.instantiate_classes(config)["data"]
    return data
