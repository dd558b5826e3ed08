"""Names of the test samples of a data set, as `kindling prepare` has written them."""

import json
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

from kindling.data.streaming.store import FileStore


class SampleNames:
    """Names, keys and values of the test samples of a data set; all empty if it has none, see `PreparedSplit.names`.

    Args:
        store: The files of the data set.
    """

    def __init__(self, store: FileStore) -> None:
        self._store = store

    @property
    def names(self) -> list[object]:
        """Name of each sample."""
        return [name for name, _ in self._samples]

    @property
    def keys(self) -> dict[str, list[object]]:
        """Further columns that identify the samples."""
        return {key: [keys[key] for _, keys in self._samples] for key in (self._samples[0][1] if self._samples else ())}

    def values(self, number: int) -> dict[str, object]:
        """Return the values of a sample of a table."""
        line = next(islice(self._lines(), number, None), {})
        values: dict[str, object] = line.get("row", {})
        return values

    @cached_property
    def _samples(self) -> list[tuple[object, dict[str, object]]]:
        return [(line["name"], line.get("keys", {})) for line in self._lines()]

    def _lines(self) -> Iterator[dict[str, Any]]:
        if stored := self._store.manifest.splits["test"].names:
            with self._store.path(stored).open(encoding="utf-8") as file:
                yield from map(json.loads, file)
