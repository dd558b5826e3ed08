"""The search space of `kindling tune` and the options of `fit` that its trials share, checked together."""

import argparse
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Self

import yaml

from kindling.cli.lightning_cli import KindlingCLI
from kindling.cli.recipes import seed_of
from kindling.cli.yaml_files import read_recipes, read_yaml
from kindling.runs.repeats import digest_files
from kindling.training.monitors import resolve_mode
from kindling.tuning.search_space import SearchSpace
from kindling.utils.errors import UsageError
from kindling.utils.plugins import load_plugins


@dataclass(frozen=True)
class SearchConfig:
    """The configuration of a search.

    Attributes:
        space: The search space.
        shared: Options of `fit` that all trials share.
        fit: All options of `fit`, with their defaults.
        monitor: Metric of the study.
        seed: Seed of all trials and of the suggestions.
        settings: Settings that must stay the same when the study continues.
    """

    space: SearchSpace
    shared: list[str]
    fit: dict[str, Any]
    monitor: str
    seed: int
    settings: dict[str, Any]

    @classmethod
    def read(cls, typed: argparse.Namespace, shared: Sequence[str], is_checked: bool) -> Self:
        """Read the search space and the recipes, and check them.

        Args:
            typed: Options of `tune`.
            shared: Options of `fit` on the command line.
            is_checked: Whether an earlier command has tried the values of the search space, which takes time.

        Raises:
            UsageError: If they are invalid.
        """
        contents = read_recipes(list(map(Path, typed.config)))
        seed = seed_of(contents) if typed.seed_everything is None else typed.seed_everything
        shared = [*shared, f"--seed_everything={seed}"]
        load_plugins(shared)  # what they print when they are imported is not part of the config
        space = SearchSpace.parse(read_yaml(Path(typed.search)), typed.search)
        fit = resolve_config(shared)
        if not is_checked:
            check_space(space, typed.search, shared)
        monitor = fit["checkpoint"]["monitor"]
        space.check_metric(monitor, typed.search)
        settings = {
            "options": [Path(option).name if option.startswith("--config=") else option for option in shared],
            "search space": space.describe(),
            "monitor": monitor,
            "mode": resolve_mode(fit["checkpoint"]["mode"], monitor),
            "contents of files": digest_files(shared, contents),
        }
        return cls(space, shared, fit, monitor, seed, settings)


def resolve_config(options: Sequence[str]) -> dict[str, Any]:
    """Return all options that `fit` would use, with their defaults.

    Raises:
        UsageError: If the options are invalid.
    """
    printed = StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        KindlingCLI("fit", [*options, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


def check_space(space: SearchSpace, source: str, shared: Sequence[str]) -> None:
    """Raise UsageError if `fit` would not take an option of the search space, or one of its values."""
    for point in space.probes():
        try:
            resolve_config([*shared, *space.options(point)])
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from error
