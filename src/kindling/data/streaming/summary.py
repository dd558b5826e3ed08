"""Describes the shards that were written, and writes the other files of a data set."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kindling.data.datamodule import SPLITS
from kindling.data.statistics import pooled_moments
from kindling.data.streaming.encoding import find_unsafe
from kindling.data.streaming.manifest import UNFINISHED, Manifest, PreparedSplit, StoredFile
from kindling.data.streaming.plan import ShardTask
from kindling.data.streaming.sources import Source
from kindling.utils.files import atomic_write

EXAMPLES = 10  # broken samples to name
UNKNOWN: dict[str, Any] = {"task": None, "input_shape": None, "class_names": (), "class_counts": (), "fitted": {}}

ShardRecord = dict[str, Any]  # about a finished shard, see `ShardWriter`


def write_summary(
    source: Source, tasks: Sequence[ShardTask], records: Sequence[ShardRecord], out: Path, size: int | None, plan: str
) -> Manifest:
    """Write the other files of a data set, and return its description.

    Raises:
        ValueError: If a split has no usable samples, or they differ in type or can't be stored.
    """
    pairs = [*zip(tasks, records, strict=True)]
    broken = {(task.split, int(index)): reason for task, each in pairs for index, reason in each["broken"].items()}
    kept = {
        split: [
            index for task in tasks if task.split == split for index in task.indices if (split, index) not in broken
        ]
        for split in source.counts
    }
    if empty := [split for split, indices in kept.items() if not indices]:
        raise ValueError(f"{source.origin} has no usable {empty[0]} samples: {next(iter(broken.values()))}")
    encodings = [each["encoding"] for each in records if each["samples"]]
    encoding = encodings[0]
    for each in encodings:
        if each["data_format"] != encoding["data_format"]:
            found = [one["data_format"] for one in (encoding, each)]
            raise ValueError(f"samples of {source.origin} differ in type: {found[0]} and {found[1]}")
    if unsafe := find_unsafe(encoding):
        raise ValueError(
            f"samples of {source.origin} contain {unsafe}, which could run code when it is read: make inputs of "
            "tensors, NumPy arrays, numbers, text and bytes in tuples, lists and dicts"
        )
    metadata = UNKNOWN | source.metadata(kept)
    names = metadata.pop("names", None)
    splits = {}
    for split in [split for split in SPLITS if split in kept]:
        own = [(task, each) for task, each in pairs if task.split == split and each["samples"]]
        targets = np.concatenate([np.load(out / UNFINISHED / f"{task.record}.npy") for task, _ in own])
        splits[split] = _write_split(out, split, own, targets, names if split == "test" else None)
        if split == "train":
            metadata |= _statistics(targets, [each["moments"] for _, each in own], metadata)
    return Manifest(
        kind=source.kind,
        source=Path(source.origin).name,
        size=size,
        **metadata,
        encoding=encoding,
        splits=splits,
        broken=len(broken),
        broken_examples={source.name(*place): reason for place, reason in [*broken.items()][:EXAMPLES]},
        plan=plan,
    )


def checksum(path: Path) -> dict[str, Any]:
    """Return the size of a file in bytes and its checksum, as in `StoredFile`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _write_split(
    out: Path,
    split: str,
    records: Sequence[tuple[ShardTask, ShardRecord]],
    targets: Any,
    names: Iterable[Mapping[str, object]] | None,
) -> PreparedSplit:
    shards = [StoredFile(task.file, each["bytes"], each["sha256"], each["samples"]) for task, each in records]
    chunks = [
        {"chunk_bytes": shard.bytes, "chunk_size": shard.samples, "dim": None, "filename": Path(shard.file).name}
        for shard in shards
    ]
    index = {"chunks": chunks, "config": records[0][1]["encoding"]}  # for LitData itself
    _write(out, f"{split}/index.json", lambda path: path.write_text(json.dumps(index, sort_keys=True)))

    def write_targets(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, targets)

    def write_names(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in names or ())

    named = None if names is None else _write(out, f"{split}/names.jsonl", write_names)
    return PreparedSplit(shards, _write(out, f"{split}/targets.npy", write_targets), named)


def _write(out: Path, file: str, write: Callable[[Path], object]) -> StoredFile:
    with atomic_write(out / file) as path:
        write(path)
    return StoredFile(file, **checksum(out / file))


def _statistics(targets: Any, moments: Sequence[Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class counts of the training targets, and mean and standard deviation of the inputs.

    Those of images come from sums over the images of each shard: of the mean, squared mean and variance of a channel.
    """
    mean, std = metadata.get("mean", (0.0,)), metadata.get("std", (1.0,))
    if moments[0]:
        averages = torch.tensor(moments, dtype=torch.float64).sum(0) / len(targets)  # (3, C)
        mean, std = (each.tolist() for each in pooled_moments(*averages))
    classes = len(metadata["class_names"])
    counts = np.bincount(targets, minlength=classes).tolist() if classes and targets.ndim == 1 else ()
    return {"mean": tuple(mean), "std": tuple(std), "class_counts": tuple(counts)}
