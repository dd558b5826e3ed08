"""Options that commands which train several runs, `repeat` and `tune`, have in common."""

import argparse
from collections.abc import Mapping, Sequence

from kindling.utils.errors import UsageError
from kindling.utils.text import program_name

OF_SINGLE_RUNS = ("--ckpt_path", "--overfit", "--find_lr", "--print_config", "--trainer.fast_dev_run")


def check_options(
    typed: argparse.Namespace, others: Sequence[str], least: Mapping[str, int], single: Sequence[str] = OF_SINGLE_RUNS
) -> None:
    """Raise UsageError if a number is too small, or an option of `fit` is for a single run.

    Args:
        typed: Options of the command.
        others: Options of `fit`.
        least: Minimum of the numbers in `typed`.
        single: Options of `fit` that are for a single run.
    """
    for option, minimum in least.items():
        if (value := getattr(typed, option)) is not None and value < minimum:
            raise UsageError(f"--{option} must be at least {minimum}, got {value}")
    if found := [option for option in others if option.partition("=")[0] in single]:
        raise UsageError(f"{found[0]} is for a single run: use {program_name()} fit")


def shared_options(typed: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """Return the options of `fit` that all runs share: plug-ins and recipes first."""
    plugins = (f"--plugin={plugin}" for plugin in typed.plugin or ())
    return [*plugins, *(f"--config={config}" for config in typed.config), *others]
