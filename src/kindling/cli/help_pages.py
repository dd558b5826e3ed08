"""Help pages that a person can scan: the common options only, in groups."""

import re
from argparse import SUPPRESS, ArgumentParser

from kindling.cli.commands import COMMANDS
from kindling.utils.plugins import add_option
from kindling.utils.text import program_name

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
        "Ends with 1 if there are errors, and 2 for invalid options. It trains nothing. It uses only "
        "the `data` section of a recipe."
    ),
    "prepare": (
        "The first argument may be a folder of images, or a CSV or Parquet file, in place of --data and its path. An "
        "interrupted preparation continues when the same command is started again. Of a recipe it reads the data only."
    ),
}


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
