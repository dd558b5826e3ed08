"""The metrics of a run by epoch, read from `metrics.csv`."""

import csv
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path

from kindling.runs.metric_names import standard_name
from kindling.runs.text_files import read_text

READ_ERRORS = (OSError, ValueError, KeyError, csv.Error)  # raised for a missing or damaged file
Points = list[tuple[float, float]]  # completed epochs, value


def read_history(metrics: Path) -> dict[str, dict[int, float]]:
    """Read `metrics.csv` as {metric: {epoch: value}}, epochs from 0; of several values in an epoch, the last.

    Metrics have standard names: `val/loss` for `valid_loss`. Rows without an epoch, which LearningRateMonitor and
    DeviceStatsMonitor log, are skipped.
    """
    history: dict[str, dict[int, float]] = defaultdict(dict)
    for row in _rows(metrics):
        if "epoch" not in row:
            continue
        epoch = int(row.pop("epoch"))
        for name, value in row.items():
            if name != "step":
                history[standard_name(name)][epoch] = float(value)
    return history


def read_learning_rates(metrics: Path) -> dict[str, Points]:
    """Read the learning rates of each parameter group, by completed epochs.

    Empty until the first epoch is complete: its number of steps is unknown before.
    """
    rows = list(_rows(metrics))
    ends = epoch_ends(rows)
    rates: dict[str, Points] = defaultdict(list)
    for row in rows if ends else ():
        for name, value in row.items():
            if name == "lr" or name.startswith("lr/"):
                rates[name].append((_epochs_done(int(row["step"]) + 1, ends), float(value)))
    return rates


def epoch_ends(rows: Iterable[Mapping[str, str]]) -> dict[int, int]:
    """Return the total steps at the end of each epoch: in the row of its training metrics, else in its last row."""
    ends: dict[int, int] = {}
    exact: dict[int, int] = {}
    for row in rows:
        if "epoch" not in row:
            continue
        epoch, done = int(row["epoch"]), int(row["step"]) + 1
        ends[epoch] = max(done, ends.get(epoch, 0))
        if "train/loss" in row:
            exact[epoch] = done
    return exact or ends


def _rows(metrics: Path) -> Iterator[dict[str, str]]:
    """Yield the rows without empty cells."""
    rows = csv.reader(StringIO(read_text(metrics), newline=""))  # twice as fast as csv.DictReader
    header = next(rows, [])
    for row in rows:
        yield {name: value for name, value in zip(header, row, strict=False) if value}  # the last may be incomplete


def _epochs_done(steps: int, ends: Mapping[int, int]) -> float:
    """Return the epochs, with a fraction, after a number of steps; an unfinished epoch is as long as the one before."""
    knots = [(0, 0), *((steps, epoch + 1) for epoch, steps in sorted(ends.items()))]
    above = min(max(bisect_left(knots, (steps,)), 1), len(knots) - 1)
    (low, before), (high, after) = knots[above - 1 : above + 1]
    return before + (after - before) * (steps - low) / (high - low)


def best_epoch(curve: Mapping[int, float], lower: bool = True) -> int | None:
    """Return the first epoch, from 0, with the best value; None if no value is finite."""
    finite = {epoch: value for epoch, value in curve.items() if math.isfinite(value)}
    return (min if lower else max)(finite, key=finite.__getitem__, default=None)
