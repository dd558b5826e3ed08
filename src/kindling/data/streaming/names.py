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

    @cached_property
    def names(self) -> list[object]:
        """Name of each sample."""
        return [line["name"] for line in self._lines()]

    @cached_property
    def keys(self) -> dict[str, list[object]]:
        """Further columns that identify the samples."""
        lines = [line.get("keys", {}) for line in self._lines()]
        return {key: [line[key] for line in lines] for key in (lines[0] if lines else ())}

    def values(self, number: int) -> dict[str, object]:
        """Return the values of a sample of a table."""
        line = next(islice(self._lines(), number, None), {})
        values: dict[str, object] = line.get("row", {})
        return values

    def _lines(self) -> Iterator[dict[str, Any]]:
        if stored := self._store.manifest.splits["test"].names:
            with self._store.path(stored).open(encoding="utf-8") as file:
                yield from map(json.loads, file)
