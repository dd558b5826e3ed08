"""Options of commands other than those of model, data and Trainer."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from jsonargparse.typing import class_from_function
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from kindling.models import ClassificationTask
from kindling.models.data_arguments import DATA_ARGUMENTS
from kindling.models.many_classes import MANY_CLASSES, TOP
from kindling.models.schedules import needs_metric
from kindling.models.task import BaseTask
from kindling.training import Averaging
from kindling.training.best_checkpoint import best_checkpoint
from kindling.training.early_stopping import early_stopping
from kindling.tuning import diagnostics
from kindling.utils.console import say

RUN_NAME = "Folder of the run in runs/. [default: name of the first --config]"
TEST_AFTER_FIT = "Whether to test the best checkpoint after training."
ALL_PROBABILITIES = f"Write all, not the top {TOP}, of more than {MANY_CLASSES} classes to predictions.csv."
FLAGS = {
    "profile": "Report the time per part of an epoch, and trace a few steps.",
    "watch": "Report layers with dead units, or vanishing or exploding gradients.",
}
FLAGS |= diagnostics.FLAGS
# Made once, as Lightning would for each parser: jsonargparse looks for the caller in all modules, which takes 0.1 s.
BEST_CHECKPOINT, EARLY_STOPPING = class_from_function(best_checkpoint), class_from_function(early_stopping)


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
    parser.add_lightning_class_args(BEST_CHECKPOINT, "checkpoint")
    parser.add_lightning_class_args(EARLY_STOPPING, "early_stopping")
    parser.add_lightning_class_args(Averaging, "averaging", subclass_mode=True, required=False)
    parser.add_argument("--run_name", type=str | None, help=RUN_NAME)
    parser.add_argument("--test_after_fit", type=bool, default=True, help=TEST_AFTER_FIT)
    for flag, text in FLAGS.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)


def check_nonempty_run(command: str, trainer: Mapping[str, Any], tests: bool, trains: bool) -> None:
    """Raise ValueError if a command would evaluate nothing although it tests, or train nothing although it trains."""
    split = {"fit": "test", "validate": "val"}.get(command, command)
    if trainer[f"limit_{split}_batches"] == 0 and tests:
        fix = "set --test_after_fit false" if command == "fit" else "set at least 1"
        verb = "validate" if split == "val" else split
        raise ValueError(f"--trainer.limit_{split}_batches 0 leaves nothing to {verb}: {fix}")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if command == "fit" and trains and trainer[name] == 0:
            raise ValueError(f"--trainer.{name} 0 trains nothing: set at least 1")


def check_validation(model: LightningModule, trainer: Mapping[str, Any]) -> None:
    """Check a model that needs the validation split, which the options of the Trainer leave out.

    A schedule that needs `val/loss` never changes the learning rate then, which is said in one line.

    Raises:
        ValueError: If the model chooses its threshold on the validation split.
    """
    metric = model.threshold_metric if isinstance(model, ClassificationTask) else None
    if metric and trainer["limit_val_batches"] == 0:
        raise ValueError(
            f"--model.threshold {metric} is chosen on the validation split: remove --trainer.limit_val_batches 0, or "
            "give the threshold as a number"
        )
    schedule = model.training_options["lr_scheduler"] if isinstance(model, BaseTask) else None
    if schedule and trainer["limit_val_batches"] == 0 and needs_metric(schedule["class_path"]):
        name = schedule["class_path"].rpartition(".")[2]
        say(f"{name} monitors val/loss: without validation, the learning rate stays as it is")
