"""Writes the samples of a source as shards with checksums; continues where it was stopped."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kindling.data.datamodule import SPLITS
from kindling.data.loading import identity_collate
from kindling.data.streaming.manifest import FILE, Manifest, PreparedSplit, StoredFile
from kindling.data.streaming.sources import Source
from kindling.utils.console import progress
from kindling.utils.files import atomic_write
from kindling.utils.optional import require_extra
from kindling.utils.text import count_noun, shorten

UNFINISHED = ".unfinished"  # folder for what is known about finished shards, until all are
PLAN = "plan"
EXAMPLES = 10  # broken samples to name
MAX_SAMPLES = 2**20  # of a shard


@dataclass(frozen=True)
class ShardTask:
    """The samples of one shard.

    Attributes:
        split: Their split.
        number: Number of the shard in its split.
        indices: Their indices in the split.
    """

    split: str
    number: int
    indices: Sequence[int]

    @property
    def file(self) -> str:
        """Path of the shard, which LitData would choose too."""
        return f"{self.split}/chunk-0-{self.number}.bin"

    @property
    def record(self) -> str:
        """Name of the file about the finished shard."""
        return f"{self.split}-{self.number}"


class ShardWriter(Dataset[dict[str, Any]]):
    """Writes a shard when it is indexed, and returns what is known about it, also if it was written before.

    Args:
        source: The samples.
        tasks: The shards.
        out: Folder to write to.
    """

    def __init__(self, source: Source, tasks: Sequence[ShardTask], out: Path) -> None:
        self.source, self.tasks, self.out = source, tasks, out
        self.unfinished = out / UNFINISHED

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, number: int) -> dict[str, Any]:
        task = self.tasks[number]
        path = self.unfinished / f"{task.record}.json"
        with suppress(FileNotFoundError):
            known: dict[str, Any] = json.loads(path.read_text("utf-8"))
            shard = self.out / task.file
            if not known["samples"] or (shard.exists() and shard.stat().st_size == known["bytes"]):
                return known
        known = self._write(task)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(known), "utf-8")
        return known

    def _write(self, task: ShardTask) -> dict[str, Any]:
        from litdata.streaming.writer import BinaryWriter

        broken: dict[int, str] = {}
        targets: list[Tensor] = []
        moments: list[Tensor] = []
        with tempfile.TemporaryDirectory(dir=self.unfinished) as folder:
            writer = BinaryWriter(folder, chunk_size=len(task.indices) + 1)
            for index in task.indices:
                try:
                    value, target, image = self.source.read(task.split, index)
                except Exception as error:  # decoders and datasets raise all kinds of errors
                    broken[index] = shorten(str(error) or type(error).__name__, 200)
                    continue
                writer[len(targets)] = (value, target.tolist() if target.ndim == 0 else target)
                targets.append(target)
                if image is not None:
                    moments.append(image.double())
            known: dict[str, Any] = {
                "samples": len(targets),
                "bytes": 0,
                "sha256": "",
                "moments": None,
                "broken": broken,
            }
            if not targets:
                return known
            (written,) = writer.done()
            index_file = next(Path(folder).glob("*index.json"))
            known |= {"encoding": json.loads(index_file.read_text())["config"], **_checksum(Path(written))}
            known["encoding"]["chunk_size"] = None  # differs between shards
            if moments:
                var, mean = torch.stack(moments).unbind(1)  # (n, C) each
                known["moments"] = [mean.sum(0).tolist(), (mean**2).sum(0).tolist(), var.sum(0).tolist()]
            np.save(self.unfinished / f"{task.record}.npy", torch.stack(targets).numpy())
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
            Path(written).replace(self.out / task.file)
        return known


def prepare_samples(source: Source, out: Path, settings: Mapping[str, Any], workers: int, seed: int) -> Manifest:
    """Write all samples as shards, and return their description, which is written last.

    Args:
        source: The samples.
        out: Folder to write to.
        settings: All that the content depends on, besides the samples; `shard_mb` is the size of a shard.
        workers: Number of processes.
        seed: Seed of the order of the training samples.

    Raises:
        ValueError: If the folder holds something else, or there are no usable samples.
    """
    require_extra("stream", "litdata")
    tasks = plan_shards(source, int(settings["shard_mb"] * 1e6), seed)
    shards = [(task.file, [*task.indices]) for task in tasks]
    plan = hashlib.sha256(repr((sorted(settings.items()), source.digest(), shards)).encode()).hexdigest()
    if finished := _begin(out, plan):
        return finished
    samples = sum(len(task.indices) for task in tasks)
    writer = ShardWriter(source, tasks, out)
    loader = DataLoader(writer, batch_size=None, num_workers=min(workers, len(tasks)), collate_fn=identity_collate)
    known = []
    text = f"writing {count_noun(samples, 'sample', 'samples')} to {out}"
    with progress(text, samples) as done:
        for task, each in zip(tasks, loader, strict=True):
            known.append(each)
            done(len(task.indices))
    manifest = _describe(source, tasks, known, out, settings["size"], plan)
    with atomic_write(out / FILE) as path:
        path.write_text(manifest.to_json(), "utf-8")
    shutil.rmtree(out / UNFINISHED)
    return manifest


def plan_shards(source: Source, shard_bytes: int, seed: int) -> list[ShardTask]:
    """Return the shards of all splits; the training samples are shuffled, as a source is often sorted by class."""
    tasks = []
    for split in [split for split in SPLITS if split in source.counts]:
        number, sizes = source.counts[split], source.sizes(split)
        order: Sequence[int] = range(number)
        if split == "train":
            order = torch.randperm(number, generator=torch.Generator().manual_seed(seed)).tolist()
        tasks += [ShardTask(split, k, part) for k, part in enumerate(_parts(order, sizes, shard_bytes))]
    return tasks


def _parts(order: Sequence[int], sizes: Sequence[int], limit: int) -> Iterator[Sequence[int]]:
    """Yield consecutive parts of an order whose samples have at most `limit` bytes together, or one sample."""
    start, total = 0, 0
    for place, index in enumerate(order):
        total += sizes[index]
        if place > start and (total > limit or place - start >= MAX_SAMPLES):
            yield order[start:place]
            start, total = place, sizes[index]
    yield order[start:]


def _begin(out: Path, plan: str) -> Manifest | None:
    """Create the folder, or continue in it; return the description if it is finished.

    Raises:
        ValueError: If the folder holds something else.
    """
    if (out / FILE).exists():
        manifest = Manifest.from_json((out / FILE).read_bytes(), str(out / FILE))
        if manifest.plan == plan:
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)
            return manifest
        raise ValueError(f"{out} holds other data, or data prepared with other options: choose another --out")
    begun = out / UNFINISHED / PLAN
    if begun.exists():
        if begun.read_text("utf-8") != plan:
            raise ValueError(
                f"{out} holds an unfinished preparation of other data or with other options: delete it, or choose "
                "another --out"
            )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose another --out")
    for folder in (UNFINISHED, *SPLITS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for left in out.glob("*/tmp*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    for left in out.rglob(".*.tmp"):
        left.unlink()
    with atomic_write(begun) as path:
        path.write_text(plan, "utf-8")
    return None


def _describe(
    source: Source, tasks: Sequence[ShardTask], known: Sequence[dict[str, Any]], out: Path, size: int | None, plan: str
) -> Manifest:
    """Write the files beside the shards, and return the description of all."""
    broken = {
        (task.split, int(index)): reason
        for task, each in _pairs(tasks, known)
        for index, reason in each["broken"].items()
    }
    kept = {
        split: [
            index for task in tasks if task.split == split for index in task.indices if (split, index) not in broken
        ]
        for split in source.counts
    }
    if not kept["train"]:
        raise ValueError(
            f"{source.origin} has no usable training samples: {next(iter(broken.values()), 'it is empty')}"
        )
    facts = source.facts(kept)
    names, splits = facts.pop("names", None), dict[str, PreparedSplit]()
    for split in [split for split in SPLITS if kept.get(split)]:
        own = [(task, each) for task, each in _pairs(tasks, known) if task.split == split and each["samples"]]
        shards = [StoredFile(task.file, each["bytes"], each["sha256"], each["samples"]) for task, each in own]
        targets = np.concatenate([np.load(out / UNFINISHED / f"{task.record}.npy") for task, _ in own])
        with atomic_write(out / split / "targets.npy") as path, path.open("wb") as file:
            np.save(file, targets)
        stored = _stored(out, f"{split}/targets.npy")
        named = None
        if split == "test" and names is not None:
            with atomic_write(out / split / "names.json") as path:
                path.write_text(json.dumps(names, ensure_ascii=False), "utf-8")
            named = _stored(out, f"{split}/names.json")
        chunks = [
            {"chunk_bytes": s.bytes, "chunk_size": s.samples, "dim": None, "filename": Path(s.file).name}
            for s in shards
        ]
        with atomic_write(out / split / "index.json") as path:  # for LitData itself
            path.write_text(json.dumps({"chunks": chunks, "config": own[0][1]["encoding"]}, sort_keys=True))
        splits[split] = PreparedSplit(shards, stored, named)
        if split == "train":
            facts |= _statistics(targets, own, facts)
    facts["mean"], facts["std"] = map(tuple, (facts["mean"], facts["std"]))
    examples = {source.name(*place): reason for place, reason in [*broken.items()][:EXAMPLES]}
    encoding = next(each["encoding"] for each in known if each["samples"])
    return Manifest(
        kind=source.kind,
        source=Path(source.origin).name,
        size=size,
        **{"task": None, "input_shape": None, "class_names": (), "class_counts": (), "fitted": {}} | facts,
        encoding=encoding,
        splits=splits,
        broken=len(broken),
        broken_examples=examples,
        plan=plan,
    )


def _pairs(tasks: Sequence[ShardTask], known: Sequence[dict[str, Any]]) -> Iterator[tuple[ShardTask, dict[str, Any]]]:
    return zip(tasks, known, strict=True)


def _statistics(
    targets: Any, shards: Sequence[tuple[ShardTask, dict[str, Any]]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the class counts of the training targets; of images, also mean and deviation of each channel."""
    found: dict[str, Any] = {"mean": facts.get("mean", (0.0,)), "std": facts.get("std", (1.0,))}
    classes = len(facts.get("class_names", ()))
    if classes and targets.ndim == 1:
        found["class_counts"] = tuple(np.bincount(targets, minlength=classes).tolist())
    if shards[0][1]["moments"]:
        mean, squares, var = np.sum([each["moments"] for _, each in shards], axis=0) / len(targets)
        std = np.sqrt(var + squares - mean**2)
        found |= {"mean": mean.tolist(), "std": np.where(std > 1e-4, std, 1.0).tolist()}
    return found


def _stored(out: Path, file: str) -> StoredFile:
    return StoredFile(file, **_checksum(out / file))


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
