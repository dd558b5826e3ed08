"""The options beside those of model, data and Trainer, and a help page that a person can read."""

import sys
from argparse import SUPPRESS
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import _typehints, set_dumper
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from kindling.cli.commands import COMMANDS
from kindling.cli.recipes import recipe_table
from kindling.cli.renamed import present_path
from kindling.models.task import DATA_ARGUMENTS
from kindling.training import Averaging, BestCheckpoint, RunEarlyStopping
from kindling.tuning import diagnostics
from kindling.utils.errors import UsageError
from kindling.utils.plugins import add_option, prefer_plugins
from kindling.utils.text import program_name

# Help texts of our own, and the flags of the Trainer that the help page shows. All others work too.
HELP = {
    "config": "Recipe: a YAML file, or the name of one listed below; of several, the later wins.",
    "print_config": "Print the configuration that results, and stop.",
    "seed_everything": "Seed of all random numbers; true draws one and prints it.",
    "ckpt_path": "Checkpoint to go on from: best, last (of the newest run), a run folder or a file.",
    "model": "Model; its options follow as --model.NAME VALUE.",
    "model.help": "Show the options of one model, CNNClassifier for example.",
    "data": "Data source; its options follow as --data.NAME VALUE.",
    "data.help": "Show the options of one data source, MNISTDataModule for example.",
    "averaging": "Average the weights while training: EMA, or SWA; its options follow as --averaging.NAME VALUE.",
    "averaging.help": "Show the options of EMA or SWA.",
    "trainer.max_epochs": "Epochs to train.",
    "trainer.max_time": "Time to train at most, days:hours:minutes:seconds.",
    "trainer.accelerator": "cpu, gpu, mps, tpu or auto.",
    "trainer.devices": "Number of devices, or the list of them.",
    "trainer.strategy": "How several devices share the work: ddp, fsdp, auto.",
    "trainer.precision": "32-true, bf16-mixed (fast on new CPUs and GPUs) or 16-mixed (older GPUs).",
    "trainer.accumulate_grad_batches": "Batches to an optimizer step.",
    "trainer.gradient_clip_val": "Largest norm of all gradients together; larger ones are scaled down to it.",
    "trainer.check_val_every_n_epoch": "Epochs from one validation to the next.",
    "trainer.limit_train_batches": "Batches of a training epoch at most, or as a float, their share.",
    "trainer.log_every_n_steps": "Optimizer steps from one logged learning rate to the next.",
    "trainer.deterministic": "Whether to use deterministic algorithms only; the CPU's are in any case.",
    "trainer.fast_dev_run": "Only try a few batches of everything; keep nothing.",
    "trainer.overfit_batches": "Train on so many batches again and again, to see whether the model can learn.",
    "trainer.profiler": "simple or advanced: where the time goes.",
}
RUN_NAME = "Folder of the run under runs/; else the name of the first --config."
TEST_AFTER_FIT = "Whether to test the best checkpoint at the end."
FLAGS = {
    "profile": "Say where the time of an epoch goes, and trace a few steps.",
    "watch": "Name layers that die, vanish or explode, in a line when it occurs.",
}
FLAGS |= diagnostics.FLAGS
TITLES = {"trainer": "trainer", "model": "model", "data": "data", "checkpoint": "best and last checkpoint"}
TITLES |= {"early_stopping": "early stopping", "ckpt_path": "going on from a checkpoint"}
TITLES |= {"averaging": "averaged weights"}
MORE = "All other flags of Lightning's Trainer work too: https://lightning.ai/docs/pytorch/stable/common/trainer.html"


def early_stopping(
    monitor: str = "val/loss", mode: Literal["min", "max"] = "min", patience: int | None = 5
) -> EarlyStopping:
    """Stops training when a figure has not improved for some time.

    Args:
        monitor: Figure to watch.
        mode: Whether less of it is better, min, or more, max.
        patience: Validations in a row without an improvement after which training stops; null never stops.
    """
    if patience is None:
        patience = sys.maxsize
    if patience < 0:
        raise ValueError(f"early_stopping.patience must not be negative: {patience}")
    return RunEarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False)


def best_checkpoint(
    monitor: str = "val/loss",
    mode: Literal["min", "max"] = "min",
    every_n_minutes: float = 10.0,
    every_n_steps: int | None = None,
) -> BestCheckpoint:
    """Keeps the checkpoint of the best validation, best.ckpt, and the last one, last.ckpt.

    Args:
        monitor: Figure that says which is best.
        mode: Whether less of it is better, min, or more, max.
        every_n_minutes: Minutes from one last.ckpt to the next within an epoch; one is saved at its end in any case.
        every_n_steps: Save last.ckpt at every multiple of this number of optimizer steps, too; null does not.
    """
    for name, value in {"every_n_minutes": every_n_minutes, "every_n_steps": every_n_steps}.items():
        if value is not None and not value > 0:
            raise ValueError(f"checkpoint.{name} must be greater than 0, not {value}")
    return BestCheckpoint(monitor, mode)


def add_fit_options(
    parser: LightningArgumentParser, given: Collection[str], of_data: Callable[[str, Any], Any]
) -> None:
    """Add the options that `fit` alone takes, and link what the data tells the model.

    Args:
        parser: The parser of `fit`.
        given: Arguments of the model that a user gives, so that they need not come from the data.
        of_data: Returns the value of an argument of the model for a data module; None if the data does not have it.
    """
    for name in DATA_ARGUMENTS:
        if name not in given:
            # Not of `data.NAME`: where an attribute is missing, the parser calls all loaders to describe the data.
            known = partial(of_data, name)
            parser.link_arguments("data", f"model.init_args.{name}", compute_fn=known, apply_on="instantiate")
    parser.add_lightning_class_args(best_checkpoint, "checkpoint")
    parser.add_lightning_class_args(early_stopping, "early_stopping")
    parser.add_lightning_class_args(Averaging, "averaging", subclass_mode=True, required=False)
    parser.add_argument("--run_name", type=str | None, help=RUN_NAME)
    parser.add_argument("--test_after_fit", type=bool, default=True, help=TEST_AFTER_FIT)
    for flag, text in FLAGS.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)


def given_model_arguments(typed: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the names of the model's arguments that are typed, or in a YAML file."""
    for option in typed:
        if option.startswith("--model."):
            yield option.split("=")[0].removeprefix("--model.").removeprefix("init_args.")
    for config in configs:
        model = config.get("model")
        if isinstance(model, dict) and isinstance(model.get("init_args"), dict):
            yield from model["init_args"]


def check_nonempty_run(command: str, trainer: Mapping[str, Any], tests: bool, trains: bool) -> None:
    """Raises ValueError where nothing would be trained or measured.

    Args:
        command: fit, validate, test or predict.
        trainer: Options of the Trainer.
        tests: Whether `fit` tests at its end.
        trains: Whether there is something to train.
    """
    measured = {"fit": "test", "validate": "val"}.get(command, command)
    if trainer[f"limit_{measured}_batches"] == 0 and tests:
        way_out = "--test_after_fit false" if command == "fit" else "at least 1"
        raise ValueError(f"no batch is left by --trainer.limit_{measured}_batches 0: ask for {way_out}")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if command == "fit" and trains and trainer[name] == 0:
            raise ValueError(f"nothing is trained by --trainer.{name} 0: ask for at least 1")


UNKNOWN = "Unable to serialize instance "  # what jsonargparse writes before a value whose type it does not know


def plain(value: Any) -> Any:
    """Replace what YAML cannot hold in a configuration.

    Enums become their values. An object without a text form can only be a default, which needs no entry.
    """
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items() if not str(item).startswith(f"{UNKNOWN}<")}
        case list():
            return [plain(item) for item in value]
        case Enum():
            return value.value
        case str():
            return value.removeprefix(UNKNOWN)
    return value


def dump_yaml(config: dict[str, Any]) -> str:
    """Write a configuration as YAML, its keys in the order of the options."""
    return yaml.safe_dump(plain(config), default_flow_style=False, allow_unicode=True, sort_keys=False)


set_dumper("yaml", dump_yaml)


_resolve = _typehints.resolve_class_path_by_name


def resolve_name(kind: Any, name: str) -> str:
    """Return the path of the class that a short name stands for; plug-ins win over others of the same name."""
    name = present_path(name)
    if "." not in name and not isinstance(kind, tuple):
        same = [path for path in _typehints.get_all_subclass_paths(kind) if path.rpartition(".")[2] == name]
        found = prefer_plugins(same)
        if same and len(found) < 2:
            return found[0] if found else name
    return str(_resolve(kind, name))


# jsonargparse refuses a name that two classes share.
_typehints.resolve_class_path_by_name = resolve_name  # type: ignore[assignment]


class KindlingArgumentParser(LightningArgumentParser):
    """A parser whose help page has short texts, the flags that people use, and the Trainer's last.

    LightningCLI still calls methods by names that jsonargparse has deprecated; here they call those that replace them.

    Attributes:
        instantiators: Functions that create the objects of a class: (function, class, whether of its subclasses too).
    """

    instantiators: list[tuple[Callable[..., Any], type, bool]] | None = None

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
            raise UsageError(f"{option} shows a help page: type it without other options after it")
        super().error(message, ex)

    @override
    def format_help(self, *arguments: Any, **options: Any) -> str:
        command = self.prog.split()[-1]
        if command not in COMMANDS:  # the help page of one class
            return super().format_help(*arguments, **options)
        for action in self._actions:
            wanted = not action.dest.startswith("trainer") and not action.dest.endswith(("weights_only", "verbose"))
            is_config = action.dest in TITLES and "CONFIG" in str(action.metavar)
            action.help = HELP.get(action.dest, action.help if wanted and not is_config else SUPPRESS)
        if "--plugin" not in self._option_string_actions:
            add_option(self)
        groups = [group for group in self._action_groups if group.title != "Linked arguments"]  # nothing to choose
        for group in groups:
            first = next((action.dest.split(".")[0] for action in group._group_actions), "")
            group.title = TITLES.get(first, group.title)
        self._action_groups = sorted(groups, key=lambda group: group.title == "trainer")
        self.usage = f"{program_name()} {command} [--config FILE ...] [--OPTION VALUE ...]"
        self.description = COMMANDS[command]
        self.epilog = MORE
        recipes = f"\n{recipe_table()}\n" if command == "fit" else ""
        return super().format_help(*arguments, **options) + recipes
