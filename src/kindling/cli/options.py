"""Options of `fit` other than those of model, data and Trainer, and the parser of all of them."""

import pkgutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial, reduce
from operator import or_
from typing import Any, ClassVar, Literal, NoReturn, get_args

import yaml
from jsonargparse import _typehints, set_dumper
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from kindling.cli.class_names import is_base
from kindling.cli.commands import COMMANDS
from kindling.cli.help_pages import OptionFormatter, arrange_class_page, arrange_page, page_width
from kindling.cli.recipes import recipe_table
from kindling.cli.renamed import present_path
from kindling.models.task import DATA_ARGUMENTS
from kindling.training import Averaging, BestCheckpoint, RunEarlyStopping
from kindling.tuning import diagnostics
from kindling.utils.errors import UsageError
from kindling.utils.plugins import prefer_plugins

RUN_NAME = "Folder of the run in runs/. [default: name of the first --config]"
TEST_AFTER_FIT = "Whether to test the best checkpoint after training."
FLAGS = {
    "profile": "Report the time per part of an epoch, and trace a few steps.",
    "watch": "Report layers with dead units, or vanishing or exploding gradients.",
}
FLAGS |= diagnostics.FLAGS


def early_stopping(
    monitor: str = "val/loss", mode: Literal["min", "max"] = "min", patience: int | None = 5
) -> EarlyStopping:
    """Stop training when a metric stops improving.

    Args:
        monitor: Metric to monitor.
        mode: Whether lower (min) or higher (max) is better.
        patience: Validations without an improvement before training stops; null turns early stopping off.
    """
    if patience is None:
        patience = sys.maxsize
    if patience < 0:
        raise ValueError(f"early_stopping.patience must not be negative, got {patience}")
    return RunEarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False)


def best_checkpoint(
    monitor: str = "val/loss",
    mode: Literal["min", "max"] = "min",
    every_n_minutes: float = 10.0,
    every_n_steps: int | None = None,
) -> BestCheckpoint:
    """Save the checkpoint with the best validation metric, best.ckpt, and the last one, last.ckpt.

    Args:
        monitor: Metric to monitor.
        mode: Whether lower (min) or higher (max) is better.
        every_n_minutes: Minutes between saves of last.ckpt during an epoch; it is always saved after each epoch.
        every_n_steps: Also save last.ckpt every N optimizer steps; null turns this off.
    """
    for name, value in {"every_n_minutes": every_n_minutes, "every_n_steps": every_n_steps}.items():
        if value is not None and not value > 0:
            raise ValueError(f"checkpoint.{name} must be greater than 0, got {value}")
    return BestCheckpoint(monitor, mode)


def add_fit_options(
    parser: LightningArgumentParser, given: Collection[str], of_data: Callable[[str, Any], Any]
) -> None:
    """Add the options that only `fit` has, and link the model's arguments that come from the data.

    Args:
        parser: Parser of `fit`.
        given: Arguments of the model set by the user, which are not linked.
        of_data: Function that returns a model argument for a data module; None if the data module does not have it.
    """
    for name in DATA_ARGUMENTS:
        if name not in given:
            # Don't link `data.NAME`: if it is missing, the parser shows the data module, which creates all loaders.
            target, compute = f"model.init_args.{name}", partial(of_data, name)
            parser.link_arguments("data", target, compute_fn=compute, apply_on="instantiate")
    parser.add_lightning_class_args(best_checkpoint, "checkpoint")
    parser.add_lightning_class_args(early_stopping, "early_stopping")
    parser.add_lightning_class_args(Averaging, "averaging", subclass_mode=True, required=False)
    parser.add_argument("--run_name", type=str | None, help=RUN_NAME)
    parser.add_argument("--test_after_fit", type=bool, default=True, help=TEST_AFTER_FIT)
    for flag, text in FLAGS.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)


def prefer_whole_numbers(parser: LightningArgumentParser) -> None:
    """Let a whole number be read as an int by options that also take a float: 1 batch is not 1.0, all batches.

    typing caches unions by their members in any order. If rich, which draws a progress bar while Lightning is imported,
    has asked for `float | int`, the Trainer's `int | float` is that too, and jsonargparse tries float first.
    """
    for action in parser._actions:
        members = get_args(getattr(action, "_typehint", None))
        if int in members and float in members:
            action._typehint = reduce(or_, sorted(members, key=lambda member: member is not int))  # type: ignore[attr-defined]


def given_model_arguments(typed: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the names of the model's arguments on the command line and in YAML files."""
    for option in typed:
        if option.startswith("--model."):
            yield option.split("=")[0].removeprefix("--model.").removeprefix("init_args.")
    for config in configs:
        model = config.get("model")
        if isinstance(model, dict) and isinstance(model.get("init_args"), dict):
            yield from model["init_args"]


def check_nonempty_run(command: str, trainer: Mapping[str, Any], tests: bool, trains: bool) -> None:
    """Raise ValueError if nothing would be trained or evaluated.

    Args:
        command: fit, validate, test or predict.
        trainer: Options of the Trainer.
        tests: Whether `fit` tests at the end.
        trains: Whether the model has something to train.
    """
    split = {"fit": "test", "validate": "val"}.get(command, command)
    if trainer[f"limit_{split}_batches"] == 0 and tests:
        fix = "set --test_after_fit false" if command == "fit" else "set at least 1"
        raise ValueError(f"no batch is left by --trainer.limit_{split}_batches 0: {fix}")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if command == "fit" and trains and trainer[name] == 0:
            raise ValueError(f"nothing is trained by --trainer.{name} 0: set at least 1")


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
            return found[0] if found else name  # a base class is no choice: jsonargparse reports it
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
    shows_all: ClassVar[bool] = False  # of the Trainer's options, those that few need, too

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": OptionFormatter} | options)

    @override
    def add_instantiator(self, *arguments: Any, **options: Any) -> None:
        """Ignore those of LightningCLI: `instantiators` holds all."""

    @override
    def instantiate_classes(self, cfg: Any, **options: Any) -> Any:
        return self.instantiate(cfg, instantiators=self.instantiators, **options)

    @override
    def dump(self, *arguments: Any, skip_none: bool = True, **options: Any) -> str:
        return str(super().dump(*arguments, **{"skip_unset": skip_none, **options}))

    @override
    def save(self, *arguments: Any, skip_none: bool = True, **options: Any) -> None:
        super().save(*arguments, **{"skip_unset": skip_none, **options})

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
