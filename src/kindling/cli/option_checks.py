"""Check the options of a command, apart from those of the Trainer."""

import os
import random
from collections.abc import Iterable
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

# jsonargparse has no public function: https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py
from jsonargparse._typehints import cached_get_class_parser
from lightning.pytorch.utilities import rank_zero_only

from kindling.cli.config_sources import Sources
from kindling.cli.parser_errors import CLASS_MISSING, NO_NAMES
from kindling.cli.recipe_checks import OPTION_GROUPS
from kindling.utils.console import say
from kindling.utils.errors import UsageError
from kindling.utils.launch import find_launch


def check_config(parser: ArgumentParser, config: Namespace, sources: Sources) -> None:
    """Check the combined options of a command, and draw a random seed if requested, in place.

    Raises:
        UsageError: If an option is missing, null, of the wrong type or without effect.
    """
    for name in OPTION_GROUPS:
        value = config.get(name, Namespace())
        if not isinstance(value, Namespace):
            off = f"--{name}.patience null turns it off" if name == "early_stopping" else "remove it for the defaults"
            shown = f"null: {off}" if value in (None, "null") else value
            raise UsageError(f"{name}: expected options such as --{name}.NAME VALUE, got {shown}")
    for key in ("model", "data"):
        if (named := config.get(key)) and named.class_path in NO_NAMES:
            raise UsageError(f"{key}: {CLASS_MISSING.format(key=key)}")
    if config["seed_everything"] is None:  # in a recipe it means true
        config["seed_everything"] = True
    check_nulls(parser, config)
    if config["ckpt_path"] is not None and sources.checkpoint is None:
        raise UsageError("ckpt_path can't be set in a config file: add --ckpt_path PATH to the command line")
    check_learning_rate(config, sources)
    if config["seed_everything"] is True:
        config["seed_everything"] = draw_seed(config["trainer"]["num_nodes"])
        say(f"seed: {config['seed_everything']}")
    elif config["seed_everything"] is not False:
        check_seed(config["seed_everything"])


def check_learning_rate(config: Namespace, sources: Sources) -> None:
    """Raise UsageError if a learning rate is typed, or set in an overlay, that OneCycleLR replaces by its own."""
    schedule = config.get("model.init_args.lr_scheduler")
    peak = schedule and schedule.class_path.endswith(".OneCycleLR") and schedule.get("init_args.max_lr")
    if not peak or any(name.startswith("model.lr_scheduler") for name in sources.option_names):
        return
    if "model.optimizer.lr" in sources.option_names or _sets_only_learning_rate(sources.recipes):
        raise UsageError(
            f"--model.optimizer.lr has no effect with OneCycleLR, whose max_lr is {peak}: add --model.lr_scheduler "
            "OneCycle, or set --model.lr_scheduler.max_lr"
        )


def _sets_only_learning_rate(recipes: Iterable[dict[str, Any]]) -> bool:
    """Return whether a recipe sets a learning rate, and neither it nor a later recipe sets a schedule."""
    is_alone = False
    for recipe in recipes:
        model = recipe.get("model")
        arguments = (model.get("init_args") if isinstance(model, dict) else None) or {}
        if "lr_scheduler" in arguments:
            is_alone = False
        elif isinstance(optimizer := arguments.get("optimizer"), dict):
            is_alone |= "lr" in (optimizer.get("init_args") or optimizer)
    return is_alone


def check_nulls(parser: ArgumentParser, config: Namespace, group: str = "") -> None:
    """Raise UsageError if an option that must have a value is null, which jsonargparse does not check."""
    for action in parser._actions:
        name, kind, value = action.dest, getattr(action, "_typehint", Any), config.get(action.dest)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Namespace) and isinstance(item.get("init_args"), Namespace):
                check_nulls(_class_parser(item.class_path, action, parser), item.init_args, f"{group}{name}.")
        if name in config and value is None and action.default is not None and not _takes_null(kind):
            raise UsageError(f"{group}{name}: null is not {_describe(kind)}")


def _describe(kind: Any) -> str:
    """Return a type in words, such as "int or auto"."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_describe, get_args(kind)))
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return " or ".join(map(str, choices)) or str(getattr(kind, "__name__", kind))


def _class_parser(class_path: str, action: Any, parent: ArgumentParser) -> ArgumentParser:
    """Return a parser of the arguments of a class; without arguments if `class_path` is a function.

    It is the parser that has read them, if jsonargparse still has it: building another takes as long as reading them.
    """
    found = resolve_name(class_path)
    if not isinstance(found, type):
        return ArgumentParser(exit_on_error=False)
    options = {"fail_untyped": False} | (getattr(action, "sub_add_kwargs", None) or {})
    parser: ArgumentParser = cached_get_class_parser(
        val_class=found, sub_add_kwargs=options, skip_args=None, parent_parser=parent, nested_links=[]
    )
    return parser


def _takes_null(kind: Any) -> bool:
    return kind in (Any, NoneType) or (get_origin(kind) in (Union, UnionType) and any(map(_takes_null, get_args(kind))))


def draw_seed(nodes: int) -> int:
    """Draw a random seed, the same in all processes of a distributed run on some machines.

    Raises:
        UsageError: In all processes, if the launcher does not share the seed; if only one failed, the rest would hang.
    """
    if getattr(rank_zero_only, "rank", 0) == 0 and find_launch().processes == nodes == 1:
        return random.SystemRandom().randrange(2**32)
    if "PL_GLOBAL_SEED" not in os.environ:
        raise UsageError("--seed_everything true would draw a different seed in each process: set a number")
    return int(os.environ["PL_GLOBAL_SEED"])  # set by the parent process


def check_seed(seed: int) -> None:
    """Raise UsageError unless both NumPy and torch accept a seed."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed_everything must be from 0 to {2**32 - 1}, got {seed}")
