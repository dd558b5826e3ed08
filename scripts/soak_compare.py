"""Compares a run that was killed and resumed with one that was not: to the bit, for `soak.py`."""

import csv
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing import event_accumulator as events
from torch import Tensor

from kindling.runs.signatures import SIGNATURE, is_own_checkpoint

# What measures the session, not the training.
TIMED_COLUMNS = {"samples_per_second", "memory_gb", "gpu_memory_gb"}
TIMED_TAGS = {f"optimization/{name}" for name in TIMED_COLUMNS}
# Drawn when there is time; of the first batch of a session; config.yaml, which is compared by itself.
OTHER_TAGS = (" (gradient)", "training samples", "config/text_summary")
TIMED_FIELDS = {"commands", "commits", "threads", "started", "heartbeat", "seconds", "process"}
# A resumed run is told the split that it wrote; the checksums follow from the values.
OTHER_KEYS = ("datamodule_hyper_parameters.split", "data.init_args.split", "checksums")
logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it announces what it leaves out
EVERYTHING = dict.fromkeys(events.DEFAULT_SIZE_GUIDANCE, 0)
KINDS: dict[str, Callable[[Any], object]] = {
    events.HISTOGRAMS: lambda event: event.histogram_value,
    events.IMAGES: lambda event: event.encoded_image_string,
    events.TENSORS: lambda event: event.tensor_proto.SerializeToString(),
}


def differences(straight: Path, resumed: Path) -> list[str]:
    """Name everything in which a resumed run differs from a straight one.

    Args:
        straight: Run folder of the training that was never killed.
        resumed: Run folder of the same training, killed and resumed.
    """
    ours, theirs = files(straight), files(resumed)
    found = [f"{name} is missing" for name in sorted(ours - theirs)]
    found += [f"{name} is left over" for name in sorted(theirs - ours)]
    for name in sorted(ours & theirs):
        if read := READERS.get(name):
            try:
                found += _differences(name, read(straight / name), read(resumed / name))
            except Exception as error:  # a damaged file, whatever its reader makes of it
                found.append(f"{name} can't be read: {error}")
    folders = {path.parent.relative_to(run) for run in (straight, resumed) for path in run.rglob("*tfevents*")}
    for folder in sorted(folders):
        found += _differences(str(folder), read_events(straight / folder), read_events(resumed / folder))
    return found


def files(run: Path) -> set[str]:
    """The files of a run, with `events` for TensorBoard's; the previous checkpoint differs from session to session."""
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    names = {re.sub(r"events\.out\.tfevents.*", "events", name) for name in names}
    return names - {"checkpoints/previous.ckpt"}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """All values of a checkpoint by their places; for the signature, which covers the split, whether it is valid."""
    stored = torch.load(path, weights_only=True, map_location="cpu")
    return named(stored | {SIGNATURE: is_own_checkpoint(stored, path)})


def named(values: Any) -> dict[str, Any]:
    """The leaves of nested values by their places, without those that may differ."""
    return {place: value for place, value in flatten(values) if not place.startswith(OTHER_KEYS)}


def flatten(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and sequences, each with its place: `optimizer_states.0.state.1.step`."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    if not items:
        yield place, value
    for key, item in items:
        yield from flatten(item, f"{place}.{key}" if place else str(key))


def read_table(path: Path) -> dict[str, Any]:
    """The cells of `metrics.csv` by row and column, without those that measure the session."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [{name: value for name, value in row.items() if name not in TIMED_COLUMNS} for row in rows]
    return {f"row {number}, {name}": value for number, row in enumerate(kept) for name, value in row.items()}


def read_record(path: Path) -> dict[str, Any]:
    """The fields of `run.json`, without those that tell of the sessions."""
    record = json.loads(path.read_text("utf-8"))
    return named({name: value for name, value in record.items() if name not in TIMED_FIELDS})


def read_config(path: Path) -> dict[str, Any]:
    """The settings of `config.yaml` by their places."""
    return named(yaml.safe_load(path.read_text("utf-8")))


def read_events(folder: Path) -> dict[str, Any]:
    """Read what TensorBoard shows of a folder: all points of a scalar; of everything else the last one.

    Of a resumed run TensorBoard leaves out what had been logged after the checkpoint. How often histograms are written
    depends on how long they take, but none twice in a step.
    """
    if not folder.is_dir():
        return {}
    shown = events.EventAccumulator(str(folder), EVERYTHING)
    shown.Reload()
    tags = shown.Tags()
    found: dict[str, Any] = {}
    for tag in set(tags[events.SCALARS]) - TIMED_TAGS:
        points = [(event.step, event.value) for event in shown.Scalars(tag)]
        found |= {f"{tag}, point {number}": point for number, point in enumerate(points)}
    for kind, value_of in KINDS.items():
        for tag in tags[kind]:
            if not tag.endswith(OTHER_TAGS):
                points = getattr(shown, kind.capitalize())(tag)
                if kind != events.TENSORS:  # of which this reader drops none where a run resumes, but TensorBoard does
                    steps = Counter(point.step for point in points)
                    found[f"{tag}, steps with two points"] = [step for step, number in steps.items() if number > 1]
                found[f"{tag}, last point"] = value_of(points[-1])
    return found


def _differences(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for place in (*ours, *(place for place in theirs if place not in ours)):
        if place not in theirs:
            yield f"{name}: {place} is missing"
        elif place not in ours:
            yield f"{name}: {place} is new, {theirs[place]!r:.80}"
        elif not same(ours[place], theirs[place]):
            yield f"{name}: {place} is {theirs[place]!r:.80}, not {ours[place]!r:.80}"


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same to the bit; NaN is the same as NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        ours, theirs = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other))
        return torch.equal(ours, theirs)
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return type(one) is type(other) and (bool(one == other) or both_nan)


def _whole(path: Path) -> dict[str, bytes]:
    return {"content": path.read_bytes()}


READERS = {
    "checkpoints/last.ckpt": read_checkpoint,
    "checkpoints/best.ckpt": read_checkpoint,
    "metrics.csv": read_table,
    "run.json": read_record,
    "test_metrics.json": _whole,
    "predictions.csv": _whole,
    "split.csv": _whole,
    "config.yaml": read_config,
}
