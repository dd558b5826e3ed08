"""The recipes and the checkpoint that a command line names, and the config of the checkpoint's run."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml
from lightning.pytorch import LightningDataModule, LightningModule

from kindling.cli.checkpoint_config import config_from_checkpoint, config_of_run
from kindling.cli.command_line import AUTO, group_options, option_name, option_values
from kindling.cli.recipe_checks import OPTION_GROUPS
from kindling.cli.recipes import find_recipes
from kindling.cli.yaml_files import check_typed, read_recipes
from kindling.data import BaseDataModule
from kindling.models.data_arguments import DATA_ARGUMENTS
from kindling.runs.checkpoints import read_checkpoint, restore_last
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.runs.folders import run_folder_of
from kindling.runs.untrusted_files import argument_names, typed_arguments
from kindling.utils.errors import UsageError, UsageErrorParser


@dataclass(frozen=True)
class Sources:
    """The sources of a command's options.

    Attributes:
        typed: Options on the command line, with the paths of recipes instead of their names.
        configs: Config files among them.
        recipes: Contents of these files.
        checkpoint: The checkpoint of `--ckpt_path`, if given.
        stored: Contents of the checkpoint.
        stored_config: Config of the checkpoint's run; options on the command line override it.
        given: Model arguments set by the options, which need not come from the data.
    """

    typed: list[str]
    configs: list[Path]
    recipes: list[dict[str, Any]]
    checkpoint: Path | None
    stored: dict[str, Any]
    stored_config: dict[str, Any]
    given: set[str]

    @classmethod
    def read(cls, command: str, options: Sequence[str]) -> Self:
        """Read the files that a command line names.

        Raises:
            UsageError: If the command needs a checkpoint and none is named.
            ValueError: If a file can't be read.
        """
        typed = [re.sub(r"^\?$|(?<==)\?$", '"?"', value) for value in options]  # YAML reads a lone ? as {null: null}
        typed = classes_first(configs_first(find_recipes(typed)))
        check_typed(typed)
        parser = UsageErrorParser(add_help=False)
        parser.add_argument("--ckpt_path")
        parser.add_argument("-c", "--config", action="append", default=[])
        named, others = parser.parse_known_args(typed)
        configs = [Path(config) for config in named.config]
        recipes = read_recipes(configs)
        checkpoint, stored, config = None, {}, {}
        if named.ckpt_path is not None:
            if command == "fit":
                checkpoint = find_checkpoint(named.ckpt_path, prefer="last", names=("best", "last", AUTO))
            else:
                checkpoint = find_checkpoint(named.ckpt_path)
            stored = restore_last(checkpoint) if command == "fit" else read_checkpoint(checkpoint)
            config = config_from_checkpoint(checkpoint, stored, command, typed, recipes)
        elif command != "fit" and not {"-h", "--help"}.intersection(typed):
            for name in map(option_name, group_options(others)):
                if "." not in name and name.startswith(("ckpt", "checkpoint")):
                    raise UsageError(f"there is no option {name}: did you mean ckpt_path?")
            raise UsageError(f"{command} needs a trained model: --ckpt_path best, last, a run folder or a file")
        given = typed_arguments("model", typed, recipes) | argument_names(config.get("model"))
        return cls(typed, configs, recipes, checkpoint, stored, config, given.intersection(DATA_ARGUMENTS))

    @property
    def option_names(self) -> set[str]:
        """Names of the options on the command line."""
        return {option_name(option) for option in group_options(self.typed)}

    @property
    def model(self) -> str:
        """Name of the class of the model in the options, the last one that is given; empty if there is none."""
        parts = [recipe["model"] for recipe in [self.stored_config, *self.recipes] if recipe.get("model")]
        named = [part.get("class_path", "") if isinstance(part, dict) else str(part) for part in parts]
        typed = [option for option in group_options(self.typed) if option_name(option) == "model"]
        named += [values[-1] for option in typed if (values := option_values(option))]
        return next(filter(None, reversed(named)), "")

    def changed_options(self, model: LightningModule, limit: float | None) -> list[str]:
        """Return the options with which `test` evaluates another model than the run did, or a part of the test split.

        Args:
            model: The model.
            limit: The option `--trainer.limit_test_batches`: 1 is one batch, 1.0 is all of them.
        """
        stored = self.stored.get("hyper_parameters", {})
        typed = typed_arguments("model", self.typed, self.recipes)
        changed = [f"--model.{name}" for name in typed if not _is_same(model.hparams.get(name), stored.get(name))]
        of_run = (self._config_of_run.get("trainer") or {}).get("limit_test_batches")
        if str(limit) not in (str(None), str(1.0), str(of_run)):
            changed.append("--trainer.limit_test_batches")
        return sorted(changed)

    def other_data(self, data: LightningDataModule | None) -> dict[str, Any]:
        """Return the options of a data module that choose other samples than those of the run, and their values.

        Their names are without `--data.`; another class is the option `data`.
        """
        if data is None or self.checkpoint is None:
            return {}
        names = getattr(data, "sample_options", BaseDataModule.sample_options)
        options = {name: data.hparams.get(name, getattr(data, name, None)) for name in names}
        typed = typed_arguments("data", self.typed, self.recipes)
        # `stored_config` has the `split.csv` of the run, which may have been trained with another file of splits.
        known = [config["data"] for config in (self.stored_config, self._config_of_run) if config.get("data")]
        if known and all(each["class_path"].rpartition(".")[2] != type(data).__name__ for each in known):
            return {"data": type(data).__name__} | {name: options[name] for name in names if name in typed}
        stored = [each.get("init_args") or {} for each in known]

        def is_as_stored(name: str) -> bool:
            is_known = name in typed or any(name in arguments for arguments in stored)
            return not is_known or any(_is_same(options[name], arguments.get(name)) for arguments in stored)

        return {name: value for name, value in options.items() if not is_as_stored(name)}

    @cached_property
    def _config_of_run(self) -> dict[str, Any]:
        return config_of_run(run_folder_of(self.checkpoint) / "config.yaml") if self.checkpoint else {}

    @property
    def arguments(self) -> list[str]:
        """All options; later ones override earlier ones."""
        return [*(["--config", yaml.safe_dump(self.stored_config)] if self.stored_config else []), *self.typed]


def _is_same(value: Any, other: Any) -> bool:
    """Return whether two values of an option are equal, or paths of the same file."""
    if isinstance(value, str | Path) and isinstance(other, str | Path):
        return os.path.realpath(value) == os.path.realpath(other)
    # A checkpoint may have lists where a model has tuples.
    return bool(value == other or json.dumps(value, default=str) == json.dumps(other, default=str))


def configs_first(typed: Sequence[str]) -> list[str]:
    """Move each `--config` before the options, which override it wherever they stand.

    `--model` and `--data` stay before it, as it may have options of their classes.

    Examples:
        >>> configs_first(["--model.dropout", "0.1", "--config=a.yaml", "-c", "b.yaml"])
        ['--config=a.yaml', '--config', 'b.yaml', '--model.dropout', '0.1']
    """
    options = group_options(typed)
    number = max((place for place, option in enumerate(options, 1) if option_name(option) == "config"), default=0)
    first = sorted(options[:number], key=lambda option: option_name(option) not in ("config", "model", "data"))
    return [part for option in (*first, *options[number:]) for part in option]


def classes_first(typed: Sequence[str]) -> list[str]:
    """Move each class before its own options: jsonargparse must know the class to parse them.

    A class stays in place if it already precedes its options, or if a `--config` in between may name another class.

    Examples:
        >>> classes_first(["--model.optimizer.lr", "0.1", "--model.optimizer", "SGD", "--model", "MLPClassifier"])
        ['--model', 'MLPClassifier', '--model.optimizer', 'SGD', '--model.optimizer.lr', '0.1']
    """
    options = group_options(typed)
    classes = {option_name(option) for option in options if _names_class(option)}
    for key in sorted(classes, key=lambda key: key.count(".")):
        keys = [option_name(option) for option in options]
        own = next((place for place, other in enumerate(keys) if other.startswith(f"{key}.")), len(keys))
        place = keys.index(key)
        if own < place and "config" not in keys[own:place] and _names_class(options[place]):
            options.insert(own, options.pop(place))
    return [part for option in options for part in option]


def _names_class(option: Sequence[str]) -> bool:
    """Return whether the value of an option is the name of a class."""
    values = option_values(option)
    is_name = len(values) == 1 and re.fullmatch(r"[A-Za-z_][\w.]*", values[0])
    return option_name(option) not in OPTION_GROUPS and bool(is_name)
