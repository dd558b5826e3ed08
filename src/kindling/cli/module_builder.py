"""Build the data module and the model of a command; the model may depend on the data."""

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse._util import import_object
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn

from kindling.cli.class_names import class_arguments
from kindling.cli.config_sources import Sources
from kindling.data import BaseDataModule
from kindling.models.data_arguments import DATA_ARGUMENTS, TARGETS, check_task
from kindling.models.ensemble import EnsembleModel, take_over_states
from kindling.models.infer import create_with_inferred_shape, infer_arguments
from kindling.models.many_classes import MANY_CLASSES
from kindling.models.task import BaseTask
from kindling.tuning.shared_data import SharedData
from kindling.utils.console import say
from kindling.utils.errors import UsageError, creation_error
from kindling.utils.hyperparameters import record_arguments
from kindling.utils.text import join_names

ARGUMENT = "model.init_args."  # prefix of model arguments in the parser's links
# By the task of the data, the attribute of a classifier that names the model to build instead.
REPLACEMENTS: dict[object, str] = {"regression": "regressor", "multilabel": "multilabel_classifier"}


class KeptError:
    """The error of a model or data module, which the parser would wrap in its own."""

    def __init__(self) -> None:
        self._error: Exception | None = None

    @contextmanager
    def keep(self, created: str = "") -> Iterator[None]:
        """Keep an error that is raised within the block; for one in the `__init__` of a class, name the class."""
        try:
            yield
        except Exception as error:
            self._error = error
            if created and isinstance(error, TypeError | AttributeError | RuntimeError | LookupError | ArithmeticError):
                self._error = creation_error(created, error)
                raise self._error from error
            raise

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise the kept error in place of the one that the parser raises within the block."""
        try:
            yield
        except Exception as error:
            if self._error is None or error is self._error:
                raise
            raise self._error from self._error.__cause__


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
        self.error = KeptError()  # of the model or the data module
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
            data.begin_with(self.sources.stored.get(kind.__qualname__, {}))
        elif self.command == "fit":
            with self.error.keep():
                self._take_over_states(data)
        return data

    def _take_over_states(self, data: LightningDataModule) -> None:
        """Let the data module of an ensemble take over the fitted states of the members."""
        model = self.cli.config[self.command]["model"]
        kind = import_object(model["class_path"]) if model else None
        if isinstance(kind, type) and issubclass(kind, EnsembleModel):
            take_over_states(data, model["init_args"].get("checkpoints") or ())

    def create_model(
        self, kind: type[LightningModule], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> LightningModule:
        """Build the model with arguments from the data module or inferred from training samples."""
        links = applied_instantiation_links
        with self.error.keep():
            kind = self._model_for_data(kind, kwargs)
            self._complete(kind, kwargs, links)
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

    def _model_for_data(self, kind: type[LightningModule], kwargs: dict[str, Any]) -> type[LightningModule]:
        """Return the class of the model; in `fit`, a classifier may be replaced by its model for the targets.

        Args:
            kind: The class in the config.
            kwargs: Its arguments; those that the other model lacks are removed in place.

        Raises:
            UsageError: If the command line sets one of these arguments.
            ValueError: If the model predicts something else than the targets.
        """
        if self.command != "fit" or not issubclass(kind, BaseTask) or kind.task is None:
            return kind
        attribute = REPLACEMENTS.get(getattr(self._data, "task", None), "")
        model: type[BaseTask] | None = vars(kind).get(attribute)  # its own: a subclass has another network
        if model is None:
            check_task(kind, self._data)
            return kind
        self._replace_model(kind, model, kwargs)
        return model

    def _replace_model(self, kind: type[BaseTask], model: type[BaseTask], kwargs: dict[str, Any]) -> None:
        """Replace a classifier by another model in the config, and remove arguments that it lacks from `kwargs`."""
        class_path = f"{model.__module__}.{model.__name__}"
        targets = f"the targets are {TARGETS[model.task][0]}" if model.task else ""
        defaults = {name: default_of(kind, name) for name in kwargs}
        lacking = kwargs.keys() - {*class_arguments(class_path)}
        unused = [name for name in kwargs if name in lacking and kwargs[name] not in (None, defaults[name])]
        if typed := [name for name in unused if f"model.{name}" in self.sources.names]:
            raise UsageError(f"{model.__name__} has no {join_names(typed)}: {targets}")
        ignored = f"; {join_names(unused)} has no effect" if unused else ""
        say(f"model: {model.__name__} instead of {kind.__name__}, because {targets}{ignored}")
        # A default of the classifier gives way to that of the other model, unless it is on the command line.
        free = [name for name in kwargs if f"model.{name}" not in self.sources.names]
        lacking |= {name for name in free if kwargs[name] == defaults[name] != default_of(model, name)}
        configs = self.cli.config[self.command]["model"], self.cli.config_dump["model"]
        for config in configs:
            config["class_path"] = class_path
        for arguments in (kwargs, *(config["init_args"] for config in configs)):
            for name in lacking:
                arguments.pop(name, None)

    def _complete(self, kind: type[LightningModule], kwargs: dict[str, Any], links: dict[str, Any]) -> None:
        """Decide which model arguments come from the data, and remove the others from `kwargs` and `links`, in place.

        In `fit`, required arguments that the data module lacks are inferred from training samples.

        Raises:
            UsageError: If a required argument can't be determined from the data.
        """
        data = self.cli.config[self.command]["data"]
        if issubclass(kind, BaseTask) and data is None:
            raise UsageError(f"--data is required: {kind.__name__} does not provide its own data")
        for key, value in [*links.items()]:
            if value is None or _argument(key) not in kwargs:  # the data module or the model lacks it
                del links[key]
        linked, missing = {_argument(key): key for key in links}, []
        for name in set(DATA_ARGUMENTS).intersection(kwargs) - self.sources.given:  # optional to the parser
            is_optional = default_of(kind, name) is not inspect.Parameter.empty
            if name in linked and is_optional and not issubclass(kind, BaseTask):
                del links[linked.pop(name)], kwargs[name]  # the name may mean something else in a plain LightningModule
            if name not in linked and kwargs[name] is None:
                missing += [name] * (not is_optional)
                del kwargs[name]
        if missing:
            found = self._infer(kind, missing, known={*linked, *self.sources.given})
            kwargs.update(found)
            links.update({f"{ARGUMENT}{name}": value for name, value in found.items()})

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


def default_of(cls: type, name: str) -> Any:
    """Return the default of a constructor argument, looked up along the MRO; `Parameter.empty` if there is none."""
    signatures = (inspect.signature(vars(one)["__init__"]).parameters for one in cls.__mro__ if "__init__" in vars(one))
    return next((found[name].default for found in signatures if name in found), inspect.Parameter.empty)
