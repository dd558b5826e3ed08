"""The options of commands that read the data of a recipe and train nothing."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse._actions import ActionConfigFile
from lightning.pytorch import LightningDataModule

from kindling.cli.class_names import NOUNS
from kindling.cli.command_line import group_options, option_name, option_values
from kindling.cli.config_sources import classes_first
from kindling.cli.original_error import OriginalError
from kindling.cli.parser import KindlingArgumentParser
from kindling.cli.parser_errors import one_line
from kindling.cli.recipes import find_recipes, seed_of
from kindling.cli.yaml_files import check_typed, read_yaml
from kindling.utils.errors import UsageError
from kindling.utils.plugins import load_plugins
from kindling.utils.text import program_name, shorten


def data_parser(command: str) -> KindlingArgumentParser:
    """Return a parser with the options of a recipe and of its data."""
    parser = KindlingArgumentParser(
        prog=f"{program_name()} {command}", exit_on_error=False, allow_abbrev=False, default_env=False
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=True)
    return parser


def parse_data(
    parser: KindlingArgumentParser, command: str, options: Sequence[str], own: Collection[str]
) -> tuple[Namespace, int]:
    """Parse the options of a command.

    Args:
        parser: The parser.
        command: Name of the command.
        options: The options on the command line.
        own: The options of the command itself, such as `--format`.

    Returns:
        The values of the options, and the seed of the recipes.

    Raises:
        UsageError: If the options are invalid.
    """
    typed = classes_first(find_recipes(load_plugins(options)))
    check_typed(typed)
    arguments, seed = _data_options(typed)
    try:
        return parser.parse_args(arguments), seed
    except ArgumentError as error:
        known = {*parser.get_defaults().keys(branches=True), *NOUNS}
        raise UsageError(_explain(one_line(str(error), known, typed), command, typed, own)) from error


def _data_options(typed: Sequence[str]) -> tuple[list[str], int]:
    """Replace each `--config RECIPE` with the recipe's data section; also return the seed."""
    arguments: list[str] = []
    recipes: list[dict[str, Any]] = []
    for option in group_options(typed):
        if option_name(option) != "config":
            arguments += option
            continue
        recipe, *others = option_values(option) or [""]
        recipes.append(_read_recipe(recipe))
        if (data := recipes[-1].get("data")) is not None:
            arguments += ["--config", yaml.safe_dump({"data": data})]
        arguments += others
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


def _explain(message: str, command: str, typed: Sequence[str], own: Collection[str]) -> str:
    """Return the error message of the parser, with what to do about options of `fit`."""
    others = [word.partition("=")[0] for word in typed if word.startswith("--")]
    other = next((name for name in others if not name.startswith(("--data", *own, "--config", "--help"))), "")
    if other and message.startswith("there is no option"):
        return f"{message}: {command} takes the options of the data only, and ignores the rest of a recipe"
    return message


def create_data(parser: KindlingArgumentParser, config: Namespace) -> LightningDataModule:
    """Create the data module."""
    original = OriginalError()

    def create(kind: type[LightningDataModule], *args: Any, **kwargs: Any) -> LightningDataModule:
        kwargs.pop("applied_instantiation_links", None)
        with original.keep(kind.__name__):
            return kind(*args, **kwargs)

    parser.instantiators = [(create, LightningDataModule, True)]
    with original.raised():
        data: LightningDataModule = parser.instantiate_classes(config)["data"]
    return data
