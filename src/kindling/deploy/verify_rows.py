"""The rows with which an exported file that takes the columns of a table is compared with its checkpoint."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kindling.data.tables.files import read_table
from kindling.data.tables.number_parsing import MAX_NUMBER
from kindling.data.tables.rows import distinct_columns, encode_rows
from kindling.data.tables.splits import read_table_split
from kindling.data.tables.typed_rows import TypedValues, as_iso, encode_typed, read_typed
from kindling.data.tables.values import Column, missing_texts
from kindling.deploy.export_wrapper import Compute, ExportWrapper
from kindling.deploy.model_card import ModelCard
from kindling.deploy.verify import Comparison, RawModel, compare
from kindling.runs.folders import run_folder_of
from kindling.runs.signatures import is_own_checkpoint
from kindling.utils.text import count_noun

MAX_ROWS = 10_000  # test rows to compare with
MADE_UP = 256  # rows
ENCODING_TOLERANCE = 1e-5  # of features of dates: a float64 resolves 10 microseconds


def compare_rows(
    wrapper: ExportWrapper, compute: Compute, card: ModelCard, stored: Mapping[str, Any], checkpoint: Path
) -> Comparison:
    """Compare a file that takes the columns of a table with its checkpoint.

    The rows are the test rows of the run if its data is still there, and made-up ones. The file gets typed values (N,)
    of each column; the checkpoint gets encoded features.

    Raises:
        ValueError: If an output differs by more than the tolerance.
    """
    columns = card.columns or []
    rows, samples, sizes = f"{MADE_UP} made-up rows", make_up_rows(columns), []
    split, known = _known_rows(checkpoint, stored, columns)
    if known:
        rows = f"{count_noun(len(known[0]), f'{split} row', f'{split} rows')} and {rows}"
        samples = [np.concatenate(parts) for parts in zip(known, samples, strict=True)]
        sizes = [len(known[0])]  # alone: made-up rows have a larger scale

    def encode(*values: TypedValues) -> Tensor:
        with _quiet():
            return torch.from_numpy(encode_typed(values, columns, "the rows"))

    comparison = compare(RawModel(wrapper, encode), compute, tuple(samples), [*sizes, len(samples[0])])
    return replace(comparison, scale=f"{comparison.scale}; compared on {rows}, both with their encoding")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about unusual values, which are wanted here."""
    logger = logging.getLogger("kindling.data.tables")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _known_rows(
    checkpoint: Path, stored: Mapping[str, Any], columns: Sequence[Column]
) -> tuple[str, list[TypedValues]]:
    """Return the typed values of the test rows of a run, and their split; no values if they can't be read any more.

    An ensemble of folds has no test rows: then those that its members were trained on are returned.

    Raises:
        ValueError: If they are encoded differently than the rows of the file.
    """
    data = stored.get("datamodule_hyper_parameters", {})
    split = run_folder_of(checkpoint) / "split.csv"
    path = data.get("test_path") or data.get("path")
    if path is None or not (data.get("test_path") or split.exists()) or not is_own_checkpoint(stored, checkpoint):
        return "", []
    missing = missing_texts(data.get("missing") or ())
    try:
        with _quiet():
            frame, name = read_table(path), "test"
            if not data.get("test_path"):
                splits = read_table_split(split, path, len(frame))
                name = "test" if "test" in splits else "train"
                frame = frame[splits == name]
            frame = frame.head(MAX_ROWS)
            typed = read_typed(frame, columns, path, missing)
            expected = encode_rows(frame, columns, path, missing)
    except (OSError, ValueError, ImportError):  # the file is not what it was
        return "", []
    with _quiet():
        found = encode_typed(typed, columns, path)
    if not np.allclose(found, expected, rtol=0, atol=ENCODING_TOLERANCE):
        raise ValueError(
            f"{path}: rows as numbers, dates and names are encoded differently than its text: choose another --format, "
            "and report this as a bug, with the table"
        )
    return {"test": "test", "train": "training"}[name], typed


def make_up_rows(columns: Sequence[Column]) -> list[TypedValues]:
    """Return typed values (N,) of each distinct column: usual, missing and huge values, unknown categories."""
    random = np.random.default_rng(0)
    return [random.permutation(np.resize(_made_up_values(column), MADE_UP)) for column in distinct_columns(columns)]


def _made_up_values(column: Column) -> TypedValues:
    if column["kind"] == "category":
        known = dict.fromkeys([*column["values"], *column.get("known", ())[:MADE_UP]])
        return np.array([*known, "", "unseen in training"], dtype=object)
    low, high = column["range"]
    usual = np.linspace(low, high, 20)
    if column["kind"] == "date":
        return np.append(as_iso(usual), "")
    far = column["center"] + column["scale"] * np.array([-100.0, -10.0, 10.0, 100.0])
    codes = [min(float(name), MAX_NUMBER) for name in column.get("known", ())[:MADE_UP]]
    return np.array([*usual, *far, *codes, column["median"], 0.0, 1e300, -1e300, np.nan])
