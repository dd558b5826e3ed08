"""Checks that a run that was killed and resumed is bit-identical to one that was not, for `soak.py`."""

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

# Measurements of the session, which differ between equal runs.
TIMED_COLUMNS = {"samples_per_second", "memory_gb", "gpu_memory_gb"}
TIMED_TAGS = {f"optimization/{name}" for name in TIMED_COLUMNS}
# Not compared: written only if time allows; from the first batch of a session; config.yaml, which is compared itself.
OTHER_TAGS = (" (gradient)", "training samples", "config/text_summary")
TIMED_FIELDS = {"commands", "commits", "threads", "started", "heartbeat", "seconds", "process"}
# A resumed run gets the path of its own split.csv.
OTHER_KEYS = ("datamodule_hyper_parameters.split", "data.init_args.split")
logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it logs the events that it purges
EVERYTHING = dict.fromkeys(events.DEFAULT_SIZE_GUIDANCE, 0)
KINDS: dict[str, Callable[[Any], object]] = {
    events.HISTOGRAMS: lambda event: event.histogram_value,
    events.IMAGES: lambda event: event.encoded_image_string,
    events.TENSORS: lambda event: event.tensor_proto.SerializeToString(),
}


def differences(reference: Path, resumed: Path) -> list[str]:
    """Return all differences between a resumed run and the reference run.

    Args:
        reference: Folder of the run that was never killed.
        resumed: Folder of the run that was killed and resumed.
    """
    ours, theirs = files(reference), files(resumed)
    found = [f"{name} is missing" for name in sorted(ours - theirs)]
    found += [f"{name} is left over" for name in sorted(theirs - ours)]
    for name in sorted(ours & theirs):
        if read := READERS.get(name):
            try:
                found += _differences(name, read(reference / name), read(resumed / name))
            except Exception as error:  # a damaged file may cause any error
                found.append(f"{name} can't be read: {error}")
    folders = {path.parent.relative_to(run) for run in (reference, resumed) for path in run.rglob("*tfevents*")}
    for folder in sorted(folders):
        found += _differences(str(folder), read_events(reference / folder), read_events(resumed / folder))
    return found


def files(run: Path) -> set[str]:
    """Return the files of a run, without `previous.ckpt`, which may differ; TensorBoard's are called `events`."""
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    names = {re.sub(r"events\.out\.tfevents.*", "events", name) for name in names}
    return names - {"checkpoints/previous.ckpt"}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return all values of a checkpoint by location; for the signature, which covers the split, whether it is valid."""
    stored = torch.load(path, weights_only=True, map_location="cpu")
    return named(stored | {SIGNATURE: is_own_checkpoint(stored, path)})


def named(values: Any) -> dict[str, Any]:
    """Return the leaves of nested values by location, without those that may differ."""
    return {place: value for place, value in flatten(values) if not place.startswith(OTHER_KEYS)}


def flatten(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and sequences with their location: `optimizer_states.0.state.1.step`."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    if not items:
        yield place, value
    for key, item in items:
        yield from flatten(item, f"{place}.{key}" if place else str(key))


def read_table(path: Path) -> dict[str, Any]:
    """Return the cells of `metrics.csv` by row and column, without measurements of the session."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [{name: value for name, value in row.items() if name not in TIMED_COLUMNS} for row in rows]
    return {f"row {number}, {name}": value for number, row in enumerate(kept) for name, value in row.items()}


def read_record(path: Path) -> dict[str, Any]:
    """Return the fields of `run.json`, without those about the sessions."""
    record = json.loads(path.read_text("utf-8"))
    return named({name: value for name, value in record.items() if name not in TIMED_FIELDS})


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in `config.yaml` by location."""
    return named(yaml.safe_load(path.read_text("utf-8")))


def read_events(folder: Path) -> dict[str, Any]:
    """Read what TensorBoard shows for a folder: all points of scalars, and the last point of everything else.

    TensorBoard drops points that were logged after the checkpoint from which a run resumed. How often histograms are
    written depends on their duration, but never twice in one step.
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
                if kind != events.TENSORS:  # unlike TensorBoard, this reader drops no tensors when a run resumes
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
    """Return whether two values are bit-identical; NaN equals NaN."""
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
