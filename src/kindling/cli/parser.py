"""The parser of `fit`, `validate`, `test` and `predict`: its help pages, its YAML, and classes by short names."""

import pkgutil
from collections.abc import Callable, Sequence
from enum import Enum
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any, ClassVar, NoReturn, get_args

import yaml
from jsonargparse import _typehints, set_dumper
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from kindling.cli.class_names import is_base
from kindling.cli.commands import COMMANDS
from kindling.cli.deprecated_names import present_path
from kindling.cli.help_pages import arrange_class_page, arrange_page
from kindling.cli.option_formatter import OptionFormatter, page_width
from kindling.cli.recipes import recipe_table
from kindling.utils.errors import UsageError
from kindling.utils.plugins import prefer_plugins

NOT_SERIALIZABLE = "Unable to serialize instance "  # jsonargparse's prefix for a value of an unknown type


def to_plain(value: Any) -> Any:
    """Return a configuration with values that YAML can store.

    Enums become their values. Objects that can't be serialized are removed: they can only be defaults.
    """
    match value:
        case dict():
            return {k: to_plain(item) for k, item in value.items() if not str(item).startswith(f"{NOT_SERIALIZABLE}<")}
        case list():
            return [to_plain(item) for item in value]
        case Enum():
            return value.value
        case str():
            return value.removeprefix(NOT_SERIALIZABLE)
    return value


def dump_yaml(config: dict[str, Any]) -> str:
    """Return a configuration as YAML, with the keys in the order of the options."""
    return yaml.safe_dump(to_plain(config), default_flow_style=False, allow_unicode=True, sort_keys=False)


set_dumper("yaml", dump_yaml)


_resolve = _typehints.resolve_class_path_by_name


def resolve_name(kind: Any, name: str) -> str:
    """Return the class path of a short name; plug-ins take precedence over other classes of the same name."""
    name = present_path(name)
    if "." not in name and not isinstance(kind, tuple):
        same = [path for path in _typehints.get_all_subclass_paths(kind) if path.rpartition(".")[2] == name]
        found = [path for path in prefer_plugins(same) if not is_base(pkgutil.resolve_name(path))]
        if same and len(found) < 2:
            return found[0] if found else name  # the name of a base class: jsonargparse reports it
    return str(_resolve(kind, name))


# jsonargparse rejects a name that two classes share, and has no setting for it:
# https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_typehints.py
_typehints.resolve_class_path_by_name = resolve_name  # type: ignore[assignment]


class KindlingArgumentParser(LightningArgumentParser):
    """A parser whose help page is short: common options only, those of the Trainer last.

    LightningCLI calls deprecated methods of jsonargparse; here they call their replacements.

    Attributes:
        instantiators: Functions that create objects: (function, class, whether for subclasses too).
    """

    instantiators: list[tuple[Callable[..., Any], type, bool]] | None = None
    shows_all: ClassVar[bool] = False  # whether help pages also show the Trainer options that few people need

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": OptionFormatter} | options)

    @override
    def add_instantiator(self, *arguments: Any, **options: Any) -> None:
        """Ignore the instantiators of LightningCLI; `instantiators` contains all that are needed."""

    @override
    def instantiate_classes(self, cfg: Any, **options: Any) -> Any:
        return self.instantiate(cfg, instantiators=self.instantiators, **options)

    @override
    def dump(self, *arguments: Any, skip_none: bool = True, **options: Any) -> str:
        # Parsed options need no second validation, which takes as long as the first.
        return str(super().dump(*arguments, **{"skip_unset": skip_none, "skip_validation": True, **options}))

    @override
    def save(self, *arguments: Any, skip_none: bool = True, **options: Any) -> None:
        super().save(*arguments, **{"skip_unset": skip_none, "skip_validation": True, **options})

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.exit_on_error:  # the parser of one class's help page
            option = str(self.description).removeprefix("Help for ")
            raise UsageError(f"{option} shows a help page: no other options may follow it")
        super().error(message, ex)

    @override
    def format_help(self, *arguments: Any, **options: Any) -> str:
        command = self.prog.split()[-1]
        if command not in COMMANDS:
            arrange_class_page(self)
            return super().format_help(*arguments, **options)
        arrange_page(self, command, self.shows_all)
        return super().format_help(*arguments, **options) + (
            f"\n{recipe_table(page_width())}\n" if command == "fit" else ""
        )


def prefer_whole_numbers(parser: LightningArgumentParser) -> None:
    """Let a whole number be read as an int by options that also take a float: 1 batch is not 1.0, all batches.

    typing caches unions by their members in any order. If rich, which draws a progress bar while Lightning is imported,
    has asked for `float | int`, the Trainer's `int | float` is that too, and jsonargparse tries float first.
    """
    for action in parser._actions:
        members = get_args(getattr(action, "_typehint", None))
        if int in members and float in members:
            action._typehint = reduce(or_, sorted(members, key=lambda member: member is not int))  # type: ignore[attr-defined]


def split_help_all(options: Sequence[str]) -> tuple[list[str], bool]:
    """Return the options without the `all` of `--help all`, and whether it was among them."""
    words = [word for each in options for word in (["-h", "all"] if each in ("-h=all", "--help=all") else [each])]
    is_extra = [word == "all" and before in ("-h", "--help") for before, word in pairwise(["", *words])]
    return [word for word, extra in zip(words, is_extra, strict=True) if not extra], any(is_extra)
