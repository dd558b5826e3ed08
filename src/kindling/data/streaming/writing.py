"""Writes the samples of a source as shards with checksums; continues where it was stopped."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kindling.data.datamodule import SPLITS
from kindling.data.loaders import identity_collate
from kindling.data.streaming.manifest import FILE, UNFINISHED, Manifest
from kindling.data.streaming.plan import ShardTask, plan_shards
from kindling.data.streaming.sources import Source
from kindling.data.streaming.summary import ShardRecord, checksum, write_summary
from kindling.utils.console import progress
from kindling.utils.files import atomic_write, locked
from kindling.utils.optional import require_extra
from kindling.utils.text import count_noun, shorten

PLAN = "plan"


class ShardWriter(Dataset[dict[str, Any]]):
    """Writes a shard to a folder when it is indexed, and returns its record, also if it was written before."""

    def __init__(self, source: Source, tasks: Sequence[ShardTask], out: Path) -> None:
        self.source, self.tasks, self.out = source, tasks, out
        self.unfinished = out / UNFINISHED

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, number: int) -> ShardRecord:
        task = self.tasks[number]
        path = self.unfinished / f"{task.record}.json"
        with suppress(FileNotFoundError):
            record: ShardRecord = json.loads(path.read_text("utf-8"))
            shard = self.out / task.file
            if not record["samples"] or (shard.exists() and shard.stat().st_size == record["bytes"]):
                return record
        record = self._write(task)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record), "utf-8")
        return record

    def _write(self, task: ShardTask) -> ShardRecord:
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
                    moments.append(image)
            if not targets:
                return {"samples": 0, "broken": broken}
            (written,) = writer.done()
            index = json.loads(next(Path(folder).glob("*index.json")).read_text())
            record: ShardRecord = {"samples": len(targets), "broken": broken, **checksum(Path(written))}
            record["encoding"] = index["config"] | {"chunk_size": None}  # differs between shards
            record["moments"] = None
            if moments:
                var, mean = torch.stack(moments).unbind(1)  # (n, C) each
                record["moments"] = [mean.sum(0).tolist(), (mean**2).sum(0).tolist(), var.sum(0).tolist()]
            np.save(self.unfinished / f"{task.record}.npy", torch.stack(targets).numpy())
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
            Path(written).replace(self.out / task.file)
        return record


def prepare_samples(
    source: Source, out: Path, settings: Mapping[str, Any], workers: int, seed: int
) -> tuple[Manifest, bool]:
    """Write all samples as shards; return their description, which is written last, and whether it existed before.

    Args:
        source: The samples.
        out: Folder to write to.
        settings: The options that change the shards; `shard_mb` is the size of a shard.
        workers: Number of processes.
        seed: Seed of the order of the training samples.

    Raises:
        ValueError: If the folder holds something else, or there are no usable samples.
    """
    require_extra("stream", "litdata")
    tasks = plan_shards(source, int(settings["shard_mb"] * 1e6), seed)
    shards = [(task.file, [*task.indices]) for task in tasks]
    plan = hashlib.sha256(repr((sorted(settings.items()), source.digest(), shards)).encode()).hexdigest()
    place = out.resolve()  # "." has no name
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.with_name(f".{place.name}.lock")):  # the same command in another process waits
        if finished := _begin(out, plan):
            _verify(out, finished)
            return finished, True
        return _write(source, tasks, out, settings["size"], plan, workers), False


def _write(
    source: Source, tasks: Sequence[ShardTask], out: Path, size: int | None, plan: str, workers: int
) -> Manifest:
    """Write the shards that are not written yet, and the files beside them."""
    samples = sum(len(task.indices) for task in tasks)
    writer = ShardWriter(source, tasks, out)
    loader = DataLoader(writer, batch_size=None, num_workers=min(workers, len(tasks)), collate_fn=identity_collate)
    records = []
    text = f"writing {count_noun(samples, 'sample', 'samples')} to {out}"
    with progress(text, samples) as done:
        for task, each in zip(tasks, loader, strict=True):
            records.append(each)
            done(len(task.indices))
    try:
        manifest = write_summary(source, tasks, records, out, size, plan)
    except ValueError:
        for folder in (UNFINISHED, *SPLITS):
            shutil.rmtree(out / folder, ignore_errors=True)
        with suppress(OSError):  # the working directory
            out.rmdir()
        raise
    with atomic_write(out / FILE) as path:
        path.write_text(manifest.to_json(), "utf-8")
    shutil.rmtree(out / UNFINISHED)
    return manifest


def _verify(out: Path, manifest: Manifest) -> None:
    """Raise ValueError if a file of a finished data set is damaged or missing."""
    files = [file for split in manifest.splits.values() for file in split.files]
    with progress(f"verifying {out}", len(files)) as done:
        for stored in files:
            path = out / stored.file
            if not path.exists() or checksum(path)["sha256"] != stored.sha256:
                state = "damaged" if path.exists() else "missing"
                raise ValueError(f"{path} is {state}: delete {out} and prepare it again, or copy the file again")
            done(1)


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
