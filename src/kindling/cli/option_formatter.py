"""Lines of help pages: an option a line where possible, with its choices and its default."""

import re
import shutil
from argparse import SUPPRESS, Action, HelpFormatter
from copy import copy
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import override

from kindling.cli.help_pages import FIT_HELP, HELP
from kindling.utils.plugins import LOADED

MAX_WIDTH = 112  # characters; longer lines are hard to read
MAX_CLASSES = 16  # of more classes, only those of Kindling and of plug-ins are listed
HIDDEN_DEFAULTS: tuple[Any, ...] = (None, SUPPRESS, (), [], "")


def page_width() -> int:
    """Return the number of columns of a help page."""
    return min(MAX_WIDTH, shutil.get_terminal_size().columns - 2)


class OptionFormatter(HelpFormatter):
    """Format an option as `--NAME VALUE  Text [choices; default]`.

    Args:
        prog: Name of the program.
    """

    def __init__(self, prog: str, **_: Any) -> None:
        super().__init__(prog, max_help_position=40, width=page_width())

    @override
    def _format_action(self, action: Action) -> str:
        action = copy(action)
        action.help = _described(action)
        return super()._format_action(action)

    @override
    def _expand_help(self, action: Action) -> str:
        return action.help or ""  # no %-formatting: the default is in the text already

    @override
    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = ", ".join(name for name in action.option_strings if not name.endswith("+"))
        if action.dest.endswith(".help"):
            return f"{names} NAME"
        if action.nargs in (0, "?") or action.dest == "print_config":
            return names
        choices = _choices(action)
        return f"{names} {'{' + ','.join(choices) + '}' if _are_few(choices) else _value_name(action)}"

    @override
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in re.split(r"\n\s*\n", text.strip()))


def _described(action: Action) -> str:
    """Return the description of an option, with its choices and default in brackets."""
    if action.help == SUPPRESS:
        return SUPPRESS
    if (name := action.dest.rpartition(".")[2]) == "help":
        return (HELP | FIT_HELP).get(action.dest, "Show the options of one of the classes below.")
    facts = []
    if not action.dest.startswith("trainer."):  # the descriptions of those name the common choices
        choices, classes = _choices(action), _classes(action)
        facts += [" or ".join(choices) if len(choices) < 3 else ", ".join(choices)] * (not _are_few(choices))
        facts += [", ".join(classes)]
    if action.required and action.option_strings:
        from kindling.models.data_arguments import DATA_ARGUMENTS  # imports torch, which `new --help` does not need

        facts.append("from the data" if name in DATA_ARGUMENTS else "required")
    elif action.nargs != 0 and action.default not in HIDDEN_DEFAULTS:
        facts.append(f"default: {_shown(action.default)}")
    shown = "; ".join(filter(None, facts))
    return " ".join(filter(None, [action.help, shown and f"[{shown}]"]))


def _parts(action: Action) -> list[Any]:
    """Return the types that an option takes, apart from null."""
    # jsonargparse keeps types there: https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py
    kind = getattr(action, "_typehint", action.type)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else [kind]
    return [part for part in parts if part is not type(None)]


def _choices(action: Action) -> list[str]:
    """Return the values that an option takes, if it takes no others."""
    parts = _parts(action)
    if not all(part is bool or get_origin(part) is Literal for part in parts):
        return list(map(str, action.choices or ()))
    return [each for part in parts for each in (("true", "false") if part is bool else map(str, get_args(part)))]


def _are_few(choices: list[str]) -> bool:
    """Return whether choices are short enough to be shown in braces instead of the name of a value."""
    return 0 < len(choices) < 4 and all(map(str.isidentifier, choices)) and len(" ".join(choices)) < 14


def _classes(action: Action) -> list[str]:
    """Return the short names of the classes that an option takes, without base classes."""
    if not hasattr(action, "_typehint"):
        return []
    from kindling.cli.class_names import choosable_paths  # jsonargparse takes 0.2 s to import

    paths = choosable_paths(action._typehint)
    if len(paths) > MAX_CLASSES:
        plugins = LOADED.values()
        paths = [path for path in paths if path.startswith("kindling.") or any(one.defines(path) for one in plugins)]
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _value_name(action: Action) -> str:
    if isinstance(action.metavar, str) and action.metavar.isidentifier():
        return action.metavar
    if _classes(action):
        return "NAME"
    parts = _parts(action)
    if len(parts) == 1 and parts[0] in (int, float):
        return "N" if parts[0] is int else "X"
    if len(parts) == 1 and get_origin(parts[0]) in (tuple, list):
        return "[A,...]"
    name = action.dest.rpartition(".")[2].upper()
    return name if len(name) < 12 else "VALUE"


def _shown(default: Any) -> str:
    """Return a default as written on the command line; for a class with arguments, its name."""
    if isinstance(default, dict) and "class_path" in default:
        arguments = ", ".join(f"{name} {value}" for name, value in default.get("init_args", {}).items())
        return f"{default['class_path'].rpartition('.')[2]}" + (f", {arguments}" if arguments else "")
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return "[" + ", ".join(map(str, default)) + "]"
    return str(default)
