"""How `fit` and the other commands build the data module and the model, which may need the data to be built."""

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn

from kindling.cli.sources import Sources
from kindling.data import BaseDataModule
from kindling.models.infer import infer_arguments, with_shape
from kindling.models.task import DATA_ARGUMENTS, BaseTask
from kindling.utils.errors import UsageError, creation_error
from kindling.utils.hyperparameters import record_arguments

ARGUMENT = "model.init_args."  # before the name of an argument of the model in links of the parser


class ModuleBuilder:
    """Builds the data module and the model of a command; its methods are instantiators of the parser.

    Args:
        cli: The command line, whose configuration is complete when the parser builds something.
        command: fit, validate, test or predict.
        sources: What the command line names.
    """

    def __init__(self, cli: LightningCLI, command: str, sources: Sources) -> None:
        self.cli = cli
        self.command = command
        self.sources = sources
        self.failure: Exception | None = None  # of the model or the data module
        self._data: LightningDataModule | None = None  # as soon as it is built: the model may be built from it

    def data_attribute(self, name: str, data: LightningDataModule | None) -> Any:
        """Return an attribute of the data module; None if it does not have it."""
        with self._keeping_the_error():
            return getattr(data, name, None)

    def create_data(
        self, kind: type[LightningDataModule], *args: Any, applied_instantiation_links: Any, **kwargs: Any
    ) -> LightningDataModule:
        """Build the data module, and tell it what the checkpoint of a resumed run knows of the data."""
        create = _InstantiatorFn(cli=self.cli, key="data")
        with self._keeping_the_error(kind.__name__):
            data = create(kind, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
        self._data = data
        record_arguments(data, kind, self._plain_arguments("data"))
        if self.sources.checkpoint and self.command == "fit" and isinstance(data, BaseDataModule):
            # At once: the model will ask for the shape of its inputs.
            data.begin_with(self.sources.stored.get(kind.__qualname__, {}))
        return data

    def create_model(
        self, kind: type[LightningModule], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> LightningModule:
        """Build the model with what the data module tells, or with what its training samples show."""
        links = applied_instantiation_links
        with self._keeping_the_error():
            self._complete(kind, kwargs, links)

        def create(**inferred: Any) -> LightningModule:
            known = links | {f"{ARGUMENT}{name}": value for name, value in inferred.items()}
            create = _InstantiatorFn(cli=self.cli, key="model")
            return create(kind, *args, applied_instantiation_links=known, **kwargs | inferred)

        is_task = issubclass(kind, BaseTask) and self.command == "fit"
        with self._keeping_the_error(kind.__name__):
            model = with_shape(create, self._data) if is_task else create()
        record_arguments(model, kind, self._plain_arguments("model") | {_argument(key): links[key] for key in links})
        return model

    def _complete(self, kind: type[LightningModule], kwargs: dict[str, Any], links: dict[str, Any]) -> None:
        """Check which arguments of a model come from its data, and remove those that do not; both are changed in place.

        In `fit`, what the data module does not have and the model requires is read from training samples.

        Raises:
            UsageError: If the data does not tell one that the model needs.
        """
        data = self.cli.config[self.command]["data"]
        if issubclass(kind, BaseTask) and data is None:
            raise UsageError(f"--data must be given: {kind.__name__} has no data of its own")
        for key, value in [*links.items()]:
            if value is None or _argument(key) not in kwargs:  # the data does not have it, or the class
                del links[key]
        linked, missing = {_argument(key): key for key in links}, []
        for name in set(DATA_ARGUMENTS).intersection(kwargs) - self.sources.given:  # the parser asks for none of them
            is_optional = default_of(kind, name) is not inspect.Parameter.empty
            if name in linked and is_optional and not issubclass(kind, BaseTask):
                del links[linked.pop(name)], kwargs[name]  # it may mean something else by the same name
            if name not in linked and kwargs[name] is None:
                missing += [name] * (not is_optional)
                del kwargs[name]
        if missing:
            found = self._infer(kind, missing, known={*linked, *self.sources.given})
            kwargs.update(found)
            links.update({f"{ARGUMENT}{name}": value for name, value in found.items()})

    def _infer(self, kind: type[LightningModule], missing: Collection[str], known: Collection[str]) -> dict[str, Any]:
        """Read required arguments of a model from training samples, and the names of the classes with their number."""
        also = {"class_names", "input_shape"}.intersection(kind.data_arguments if issubclass(kind, BaseTask) else ())
        wanted = [name for name in DATA_ARGUMENTS if name in missing or name in also.difference(known)]
        found = infer_arguments(self._data, wanted) if self._data and self.command == "fit" else {}
        if not found.keys() >= set(missing):
            lacking = [name for name in wanted if name not in found and name != "class_names"]
            why = f", which {type(self._data).__name__} does not have" if self._data else ""
            options = " ".join(f"--model.{name} VALUE" for name in lacking)
            raise UsageError(f"{kind.__name__} needs {' and '.join(lacking)}{why}: add {options}")
        return {name: value for name, value in found.items() if name in missing or name == "class_names"}

    @contextmanager
    def _keeping_the_error(self, created: str = "") -> Iterator[None]:
        """Keep an error that the parser would wrap; an error in the `__init__` of a class names the class."""
        try:
            yield
        except Exception as error:
            self.failure = error
            if created and isinstance(error, TypeError | AttributeError | RuntimeError | LookupError | ArithmeticError):
                self.failure = creation_error(created, error)
                raise self.failure from error
            raise

    def _plain_arguments(self, key: str) -> dict[str, Any]:
        """Return the arguments of the model or data module as plain values."""
        config = self.cli.config_dump.get(key) or {}
        return {**config.get("init_args", {}), **config.get("dict_kwargs", {})}


def _argument(link: str) -> str:
    """Return the name of the model's argument that a link of the parser sets."""
    return link.rpartition(".")[2]


def default_of(cls: type, name: str) -> Any:
    """Return the default of an argument of a class or of the base that it passes it to; empty if it has none."""
    signatures = (inspect.signature(vars(one)["__init__"]).parameters for one in cls.__mro__ if "__init__" in vars(one))
    return next((found[name].default for found in signatures if name in found), inspect.Parameter.empty)
