"""Data that the trials of a study share, so that it is read once."""

from collections.abc import Mapping
from typing import Any

from kindling.data import BaseDataModule

# Arguments of `BaseDataModule` that only its data loaders use.
OF_LOADERS = ("batch_size", "eval_batch_size", "num_workers")
OF_RUNS = ("trainer", "batch_size")  # attributes that each data module sets itself


class SharedData:
    """Passes what one data module has read on to the next one with the same arguments."""

    def __init__(self) -> None:
        self._last: BaseDataModule | None = None
        self._arguments: dict[str, Any] = {}
        self._new: dict[str, Any] = {}  # attributes of the last one when it was new

    def share(self, data: Any, arguments: Mapping[str, Any]) -> None:
        """Let a new data module take over what the last one has read, if only their loaders differ.

        Args:
            data: The data module; one that is not Kindling's own is left alone, as it may keep a state of its training.
            arguments: Its arguments as plain values.
        """
        if not isinstance(data, BaseDataModule) or not type(data).__module__.startswith("kindling."):
            return
        kept = {name: value for name, value in arguments.items() if name not in OF_LOADERS}
        new = dict(vars(data))
        is_read = hasattr(self._last, "train") and type(data) is type(self._last) and kept == self._arguments
        for name, value in vars(self._last).items() if is_read else ():
            is_typed = name == "num_workers" and data.num_workers > 0
            if name not in OF_RUNS and not is_typed and not (name in self._new and self._new[name] is value):
                setattr(data, name, value)
        self._last, self._arguments, self._new = data, kept, new
