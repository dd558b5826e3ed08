"""The name and the unit of the target that a checkpoint was trained on."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class StoredTarget(NamedTuple):
    """The target of a model, as far as its checkpoint tells.

    Attributes:
        name: Name of the target, or of several; empty if it is not known.
        unit: Its unit; empty if it is not known or has none.
    """

    name: str
    unit: str

    @classmethod
    def of_checkpoint(cls, stored: Mapping[str, Any]) -> Self:
        """Return the target in the contents of a checkpoint."""
        arguments = stored.get("datamodule_hyper_parameters", {})
        return cls.of(arguments, stored.get(str(arguments.get("_class_path", "")).rpartition(".")[2], {}))

    @classmethod
    def of(cls, arguments: Mapping[str, Any], learned: Mapping[str, Any]) -> Self:
        """Return the target of a data module, given its arguments and what it has learned."""
        column, given = learned.get("target") or {}, arguments.get("target") or ()
        names = [given] if isinstance(given, str) else [*given] if isinstance(given, list | tuple) else []
        units = column.get("units") or []
        return cls(column.get("name", ", ".join(map(str, names))), units[0] if len(units) == 1 else "")

    def differs_from(self, other: "StoredTarget") -> bool:
        """Return whether this is certainly another target, or the same in another unit."""
        return any(mine and theirs and mine != theirs for mine, theirs in zip(self, other, strict=True))

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name
