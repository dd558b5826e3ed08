"""Read YAML configs, with errors that name the file, the line and the key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from kindling.cli.command_line import group_options, option_name, option_values
from kindling.cli.recipe_checks import add_space, check_recipe, check_value, find_missing_space, show
from kindling.runs.untrusted_config import check_size
from kindling.utils.errors import UsageError

# Parts of PyYAML's messages about common mistakes, with the fix.
FIXES = {
    "mapping values are not allowed": "unexpected colon; check the indentation, and quote text that contains a colon",
    "could not find expected ':'": "a colon is missing after a key, or a quotation mark is not closed",
    "expected <block end>": "the indentation differs from the lines above",
    "sequence entries are not allowed": "unexpected dash; start the list on a line of its own",
    "unexpected end of stream": "a quotation mark is not closed",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "cannot start any token": "indent with spaces rather than tabs, and quote text that begins with @, ` or %",
    "could not determine a constructor": "remove the tag, which begins with !",
    "found undefined alias": "quote text that begins with *",
    "expected alphabetic or numeric character": "quote text that begins with * or &",
    "escape": "double a backslash between double quotation marks, or use single ones",
    "expected '<document start>'": "the file must be a single mapping of options",
}
DEFAULT_FIX = "check the indentation, colons, brackets and quotation marks"


class _UniqueKeyLoader(yaml.SafeLoader):
    """Rejects duplicate keys, which YAML forbids; in PyYAML's own loader the last one wins."""

    @override
    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"{key.value} is given twice, in lines {lines[name]} and {line}: keep one")
            lines[name] = line
        return node


def read_yaml(config: Path) -> dict[str, Any]:
    """Read a config.

    Raises:
        UsageError: If it is not valid YAML, or a key is not a valid option name.
    """
    try:
        text = config.read_text(encoding="utf-8")
        read = yaml.load(text, Loader=_UniqueKeyLoader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{config} is not text in UTF-8: save it with that encoding") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(
            f"{config} is not valid YAML, line {line}: remove the control character U+{error.character:04X}"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise UsageError(f"{config} is not valid YAML{_explain(error, text)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2024-02-31, or deep nesting
        raise UsageError(f"{config} is not valid YAML: {error}") from error
    if not isinstance(read, dict):
        hint = add_space(str(read).split("\n")[0])
        raise UsageError(f"{config}: {hint or f'must contain options such as seed_everything: 1, got {show(read)}'}")
    try:
        check_size(read)
    except ValueError as error:
        raise UsageError(f"{config} is {error}") from error
    check_recipe(read, config)
    return read


def read_recipes(configs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the contents of config files, without YAML on the command line."""
    return [read_yaml(path) for path in configs if path.is_file()]


def check_typed(options: Sequence[str]) -> None:
    """Raise UsageError if the value of an option on the command line is YAML with an invalid structure."""
    for option in group_options(options):
        for value in option_values(option):
            if not value.startswith(("{", "[")):
                continue
            try:
                read = yaml.safe_load(value)
                check_size(read)
            except (yaml.YAMLError, ValueError, RecursionError):
                continue  # it may be text
            if option_name(option) == "config" and isinstance(read, dict):
                check_recipe(read, "--config")
            else:
                check_value(read, option_name(option))


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    """Return the location of a YAML error and how to fix it."""
    mark, place = error.problem_mark, ""
    if mark:
        if hint := find_missing_space(text, mark.line + 1):
            return f", {hint}"
        place = f", line {mark.line + 1}, column {mark.column + 1}"
    fix = next((fix for part, fix in FIXES.items() if part in (error.problem or "")), DEFAULT_FIX)
    return f"{place}: {fix}"
