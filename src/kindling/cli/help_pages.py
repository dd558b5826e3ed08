"""Help pages that a person can scan: an option a line where possible, with its choices and its default."""

import re
import shutil
from argparse import SUPPRESS, Action, ArgumentParser, HelpFormatter
from collections.abc import Iterable
from copy import copy
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import override

from kindling.cli.commands import COMMANDS
from kindling.utils.plugins import LOADED, add_option
from kindling.utils.text import program_name

MAX_WIDTH = 112  # characters; longer lines are hard to read
MAX_CLASSES = 16  # of more classes, only those of Kindling and of plug-ins are listed
HIDDEN_DEFAULTS: tuple[Any, ...] = (None, SUPPRESS, (), [], "")

# Help texts; of the Trainer's options, the help page shows only these.
HELP = {
    "help": "Show this help page and exit.",
    "config": "Recipe: a YAML file, or a name from fit --help; later ones override.",
    "print_config": "Print the resulting configuration and exit.",
    "seed_everything": "Random seed; true draws one and prints it.",
    "ckpt_path": "Checkpoint: best, last (of the newest run), a run folder or a file.",
    "model": "Model; its options follow as --model.NAME VALUE.",
    "model.help": "Show the options of a model, such as CNNClassifier.",
    "data": "Data source; its options follow as --data.NAME VALUE.",
    "data.help": "Show the options of a data source, such as MNISTDataModule.",
    "trainer.accelerator": "cpu, gpu, mps, tpu or auto.",
    "trainer.devices": "Number of devices, or a list of their indices.",
    "trainer.strategy": "Distributed strategy: ddp, fsdp or auto.",
    "trainer.precision": "32-true, bf16-mixed (recent CPUs and GPUs) or 16-mixed (older GPUs).",
    "trainer.deterministic": "Use only deterministic algorithms; those of the CPU always are.",
    "trainer.fast_dev_run": "Run only N batches of each stage; save nothing.",
    "trainer.profiler": "Profiler: simple or advanced.",
}
FIT_HELP = {
    "ckpt_path": "To resume: auto (of this command), best, last, a folder or a file.",
    "averaging": "Averaging; its options follow as --averaging.NAME VALUE.",
    "averaging.help": "Show the options of EMA or SWA.",
    "trainer.max_epochs": "Number of training epochs.",
    "trainer.max_time": "Maximum training time, days:hours:minutes:seconds.",
    "trainer.accumulate_grad_batches": "Batches per optimizer step.",
    "trainer.gradient_clip_val": "Maximum norm of all gradients; larger gradients are scaled down.",
    "trainer.check_val_every_n_epoch": "Run validation every N epochs.",
    "trainer.limit_train_batches": "Maximum number (int) or fraction (float) of batches per training epoch.",
    "trainer.log_every_n_steps": "Log the learning rate every N optimizer steps.",
    "trainer.overfit_batches": "Overfit N batches (int) or a fraction (float) of them.",
}
GROUP_TITLES = {"model": "model", "data": "data", "checkpoint": "best and last checkpoint", "trainer": "trainer"}
GROUP_TITLES |= {"early_stopping": "early stopping", "averaging": "weight averaging", "ckpt_path": "checkpoint"}
TRAINER_DOCS = (
    "All other options of Lightning's Trainer work too: https://lightning.ai/docs/pytorch/stable/common/trainer.html"
)
DATA_DOCS = {
    "check": (
        "Ends with 1 if there are errors, and 2 for invalid options. It trains nothing and writes no files. Of a "
        "recipe it reads the data only."
    ),
    "prepare": (
        "The first argument may be a folder of images, or a CSV or Parquet file, in place of --data and its path. An "
        "interrupted preparation continues when the same command is started again. Of a recipe it reads the data only."
    ),
}


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
        facts.append("from the data" if name in _data_arguments() else "required")
    elif action.nargs != 0 and action.default not in HIDDEN_DEFAULTS:
        facts.append(f"default: {_shown(action.default)}")
    shown = "; ".join(filter(None, facts))
    return " ".join(filter(None, [action.help, shown and f"[{shown}]"]))


def _data_arguments() -> Iterable[str]:
    from kindling.models.data_arguments import (
        DATA_ARGUMENTS,  # imports torch, which `kindling new --help` does not need
    )

    return DATA_ARGUMENTS


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
    from kindling.cli.class_names import choosable_paths

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


def arrange_class_page(parser: ArgumentParser) -> None:
    """Prepare the help page of one class."""
    option = str(parser.description).removeprefix("Help for ")
    parser.usage = option.partition(".help")[0] + " NAME [options below]"
    parser.description = ""
    for group in parser._action_groups:  # named after a class without a docstring
        group.title = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", group.title or "")


def arrange_page(parser: ArgumentParser, command: str, shows_all: bool) -> None:
    """Prepare the help page of `fit`, `validate`, `test` or `predict`: common options only, those of the Trainer last.

    Args:
        parser: Parser of the command.
        command: The command.
        shows_all: Whether to also show options that few people need.
    """
    # argparse has no public way to hide or sort what others added:
    # https://github.com/python/cpython/blob/v3.13.0/Lib/argparse.py
    texts = HELP | FIT_HELP if command == "fit" else HELP
    for action in parser._actions:
        is_rare = action.dest.startswith("trainer") or action.dest.endswith(("weights_only", "verbose"))
        is_config = action.dest in GROUP_TITLES and "CONFIG" in str(action.metavar)
        is_hidden = is_config or (is_rare and not shows_all)
        action.help = texts.get(action.dest, SUPPRESS if is_hidden else action.help)
    if parser.usage is None:  # otherwise the page is shown a second time
        add_option(parser)
    groups = [group for group in parser._action_groups if group.title != "Linked arguments"]  # not options
    for group in groups:
        first = next((action.dest.split(".")[0] for action in group._group_actions), "")
        group.title = GROUP_TITLES.get(first, group.title)
    parser._action_groups = sorted(groups, key=lambda group: group.title == "trainer")
    parser.usage = f"{program_name()} {command} [--config FILE ...] [--OPTION VALUE ...]"
    parser.description = COMMANDS[command]
    if command in DATA_DOCS:
        parser.epilog = DATA_DOCS[command]
        return
    parser.epilog = f"{program_name()} {command} --help all shows all options. {TRAINER_DOCS}"
