"""Help pages that a person can scan: an option a line where possible, with its choices and its default."""

import shutil
from argparse import Action
from typing import Any, Literal, get_args, get_origin

from jsonargparse import DefaultHelpFormatter
from jsonargparse._typehints import ActionTypeHint, get_all_subclass_paths
from typing_extensions import override

from kindling.models.task import DATA_ARGUMENTS
from kindling.utils.plugins import LOADED

WIDEST = 112  # columns: longer lines are hard to read
BASES = {"LightningModule", "LightningDataModule", "BaseTask", "ClassificationTask", "RegressionTask"}
BASES |= {"BaseDataModule", "ClassificationDataModule", "Averaging"}
FEW = 16  # classes that can be named; of more, those of Kindling and of plug-ins are


class HelpFormatter(DefaultHelpFormatter):
    """Format an option as `--NAME VALUE  Text [choices; default]`.

    Args:
        prog: Name of the program.
    """

    def __init__(self, prog: str, **_: Any) -> None:
        width = min(WIDEST, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=40, width=width)  # type: ignore[no-untyped-call]

    @override
    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if not name.endswith("+")]
        values = ""
        if action.nargs not in (0, "?") and not action.dest.endswith(("help", "print_config")):
            choices = _choices(action)
            values = " {" + ",".join(map(str, choices)) + "}" if 0 < len(choices) < 4 else f" {_value_name(action)}"
        elif action.dest.endswith(".help"):
            values = " NAME"
        return ", ".join(names) + values

    @override
    def _get_help_string(self, action: Action) -> str:
        facts = []
        choices, classes = _choices(action), _classes(action)
        if action.dest.startswith("trainer."):  # whose texts name those that people use
            choices, classes = [], []
        if len(choices) > 3:
            facts.append(", ".join(map(str, choices)))
        if classes:
            facts.append(", ".join(classes))
        name = action.dest.rpartition(".")[2]
        if action.required:
            facts.append("from the data" if name in DATA_ARGUMENTS else "required")
        elif action.nargs != 0 and action.default not in (None, "==SUPPRESS==", (), []):
            facts.append(f"default: {_shown(action.default)}")
        return (action.help or "").replace("%", "%%") + (f" [{'; '.join(facts)}]" if facts else "")

    @override
    def _expand_help(self, action: Action) -> str:
        return self._get_help_string(action).replace("%%", "%")


def _kind(action: Action) -> Any:
    return getattr(action, "_typehint", action.type)


def _choices(action: Action) -> list[Any]:
    """Return the values that an option takes, if it takes no others."""
    kind = _kind(action)
    if kind is bool:
        return ["true", "false"]
    parts = [part for part in get_args(kind) if part is not type(None)] if get_origin(kind) is not Literal else [kind]
    if parts and all(get_origin(part) is Literal for part in parts):
        return [choice for part in parts for choice in get_args(part)]
    return list(action.choices or ())


def _classes(action: Action) -> list[str]:
    """Return the short names of the classes that an option takes, without the bases to derive from."""
    if not isinstance(action, ActionTypeHint):
        return []
    paths = get_all_subclass_paths(action._typehint, closed_types=False)
    if len(paths) > FEW:
        plugins = LOADED.values()
        paths = [path for path in paths if path.startswith("kindling.") or any(one.defines(path) for one in plugins)]
    names = dict.fromkeys(path.rpartition(".")[2] for path in paths)
    return [name for name in names if name not in BASES]


def _value_name(action: Action) -> str:
    if isinstance(action.metavar, str) and action.metavar.isidentifier():
        return action.metavar
    if _classes(action):
        return "NAME"
    kind = _kind(action)
    kinds = {int: "N", float: "X"}
    parts = [part for part in get_args(kind) if part is not type(None)] or [kind]
    if len(parts) == 1 and parts[0] in kinds:
        return kinds[parts[0]]
    if get_origin(kind) in (tuple, list):
        return "[A,...]"
    return action.dest.rpartition(".")[2].upper() if len(action.dest.rpartition(".")[2]) < 14 else "VALUE"


def _shown(default: Any) -> str:
    """Return a default as it would be typed; of a class with arguments, its name."""
    if isinstance(default, dict) and "class_path" in default:
        arguments = ", ".join(f"{name} {value}" for name, value in default.get("init_args", {}).items())
        return f"{default['class_path'].rpartition('.')[2]}" + (f", {arguments}" if arguments else "")
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return "[" + ", ".join(map(str, default)) + "]"
    return str(default)
