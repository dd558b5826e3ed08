"""Build the data module and the model of a command; the model may depend on the data."""

import inspect
from collections.abc import Collection
from pkgutil import resolve_name
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn

from kindling.cli.config_sources import Sources
from kindling.cli.model_replacement import default_of, dropped_arguments, model_for_data
from kindling.cli.original_error import OriginalError
from kindling.data import BaseDataModule
from kindling.models.data_arguments import DATA_ARGUMENTS
from kindling.models.ensemble import EnsembleModel, take_over_states
from kindling.models.infer import create_with_inferred_shape, infer_arguments
from kindling.models.many_classes import MANY_CLASSES
from kindling.models.task import BaseTask
from kindling.tuning.trials import SharedData
from kindling.utils.errors import UsageError
from kindling.utils.hyperparameters import record_arguments

ARGUMENT = "model.init_args."  # prefix of model arguments in the parser's links


class ModuleBuilder:
    """Builds the data module and the model of a command; its methods are instantiators of the parser.

    Args:
        cli: The command line interface; its config is complete when the parser starts to build objects.
        command: fit, validate, test or predict.
        sources: The recipes and the checkpoint on the command line.
        shared: What data modules of earlier trials have read; None for an ordinary run.
    """

    def __init__(self, cli: LightningCLI, command: str, sources: Sources, shared: SharedData | None = None) -> None:
        self.cli = cli
        self.command = command
        self.sources = sources
        self.shared = shared
        self.error = OriginalError()  # of the model or the data module
        self._data: LightningDataModule | None = None  # once built; the model may depend on it

    def data_attribute(self, name: str, data: LightningDataModule | None) -> Any:
        """Return an attribute of the data module; None if missing."""
        with self.error.keep():
            return getattr(data, name, None)

    def create_data(
        self, kind: type[LightningDataModule], *args: Any, applied_instantiation_links: Any, **kwargs: Any
    ) -> LightningDataModule:
        """Build the data module; when resuming, restore its state from the checkpoint."""
        create = _InstantiatorFn(cli=self.cli, key="data")
        with self.error.keep(kind.__name__):
            data = create(kind, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
        self._data = data
        record_arguments(data, kind, self._plain_arguments("data"))
        if self.shared is not None and not self.sources.checkpoint:
            self.shared.share(data, self._plain_arguments("data"))
        if self.sources.checkpoint and self.command == "fit" and isinstance(data, BaseDataModule):
            # Before the model is built, which needs the input shape.
            data.restore_fitted(self.sources.stored.get(kind.__qualname__, {}))
        elif self.command == "fit":
            with self.error.keep():
                self._take_over_states(data)
        return data

    def _take_over_states(self, data: LightningDataModule) -> None:
        """Let the data module of an ensemble take over the fitted states of the members."""
        model = self.cli.config[self.command]["model"]
        kind = resolve_name(model["class_path"]) if model else None
        if isinstance(kind, type) and issubclass(kind, EnsembleModel):
            take_over_states(data, model["init_args"].get("checkpoints") or ())

    def create_model(
        self, kind: type[LightningModule], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> LightningModule:
        """Build the model with arguments from the data module or inferred from training samples."""
        with self.error.keep():
            if self.command == "fit" and (chosen := model_for_data(kind, self._data)) is not kind:
                kwargs, kind = self._replace(kind, chosen, kwargs), chosen
            kwargs, links = self._complete(kind, kwargs, applied_instantiation_links)
        names = self.sources.stored.get("hyper_parameters", {}).get("class_names") or ()
        if self.command != "fit" and len(names) > MANY_CLASSES and not kwargs.get("class_names", True):
            kwargs["class_names"] = names  # `config_from_checkpoint` leaves them out

        def create(**inferred: Any) -> LightningModule:
            known = links | {f"{ARGUMENT}{name}": value for name, value in inferred.items()}
            create = _InstantiatorFn(cli=self.cli, key="model")
            return create(kind, *args, applied_instantiation_links=known, **kwargs | inferred)

        is_task = issubclass(kind, BaseTask) and self.command == "fit"
        with self.error.keep(kind.__name__):
            model = create_with_inferred_shape(create, self._data) if is_task else create()
        record_arguments(model, kind, self._plain_arguments("model") | {_argument(key): links[key] for key in links})
        return model

    def _replace(
        self, kind: type[LightningModule], model: type[LightningModule], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Replace a classifier by another model in the config, and return the arguments of that."""
        dropped = dropped_arguments(kind, model, kwargs, self.sources.option_names)
        for config in (self.cli.config[self.command]["model"], self.cli.config_dump["model"]):
            config["class_path"] = f"{model.__module__}.{model.__name__}"
            for name in dropped:
                config["init_args"].pop(name, None)
        return {name: value for name, value in kwargs.items() if name not in dropped}

    def _complete(
        self, kind: type[LightningModule], kwargs: dict[str, Any], links: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Decide which model arguments come from the data.

        In `fit`, required arguments that the data module lacks are inferred from training samples.

        Args:
            kind: The class of the model.
            kwargs: Its arguments.
            links: Values from the data module by the parser's names of model arguments.

        Returns:
            The arguments and the values from the data that the model gets.

        Raises:
            UsageError: If a required argument can't be determined from the data.
        """
        is_task = issubclass(kind, BaseTask)
        if is_task and self.cli.config[self.command]["data"] is None:
            raise UsageError(f"--data is required: {kind.__name__} does not provide its own data")
        undecided = set(DATA_ARGUMENTS).intersection(kwargs) - self.sources.given
        required = {name for name in undecided if default_of(kind, name) is inspect.Parameter.empty}
        from_data = {_argument(key) for key, value in links.items() if value is not None}.intersection(kwargs)
        # An optional argument of a plain LightningModule may mean something else than the data: it keeps its default.
        own = set() if is_task else from_data & undecided - required
        linked = from_data - own
        links = {key: value for key, value in links.items() if _argument(key) in linked}
        unset = {name for name in undecided - from_data if kwargs[name] is None}  # optional to the parser
        kwargs = {name: value for name, value in kwargs.items() if name not in own | unset}
        if missing := unset & required:
            found = self._infer(kind, missing, known={*linked, *self.sources.given})
            kwargs |= found
            links |= {f"{ARGUMENT}{name}": value for name, value in found.items()}
        return kwargs, links

    def _infer(self, kind: type[LightningModule], missing: Collection[str], known: Collection[str]) -> dict[str, Any]:
        """Infer required model arguments, and class names along with `num_classes`, from training samples."""
        also = {"class_names", "input_shape"}.intersection(kind.data_arguments if issubclass(kind, BaseTask) else ())
        wanted = [name for name in DATA_ARGUMENTS if name in missing or name in also.difference(known)]
        found = infer_arguments(self._data, wanted) if self._data and self.command == "fit" else {}
        if not found.keys() >= set(missing):
            lacking = [name for name in wanted if name not in found and name != "class_names"]
            data = type(self._data).__name__ if self._data else ""
            why = f", which {data} does not provide: set them in its class, or add" if data else ": add"
            options = " ".join(f"--model.{name} VALUE" for name in lacking)
            raise UsageError(f"{kind.__name__} needs {' and '.join(lacking)}{why} {options}")
        return {name: value for name, value in found.items() if name in missing or name == "class_names"}

    def _plain_arguments(self, key: str) -> dict[str, Any]:
        """Return the arguments of the model or data module as plain values."""
        config = self.cli.config_dump.get(key) or {}
        return {**config.get("init_args", {}), **config.get("dict_kwargs", {})}


def _argument(link: str) -> str:
    """Return the model argument that a link of the parser sets."""
    return link.rpartition(".")[2]
