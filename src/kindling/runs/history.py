"""The figures of a run by epoch, as `metrics.csv` has them."""

import csv
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path

from kindling.runs.find import read_text
from kindling.runs.metric_names import standard_name

DAMAGED = (OSError, ValueError, KeyError, csv.Error)  # what reading a broken file may raise
Points = list[tuple[float, float]]  # epochs done, value


def read_history(metrics: Path) -> dict[str, dict[int, float]]:
    """Read `metrics.csv` as {metric: {epoch: value}}, epochs from 0; the last value of an epoch counts.

    Metrics have the names that Kindling's own tasks give them: `val/loss` for `valid_loss`.

    Rows without an epoch, as LearningRateMonitor and DeviceStatsMonitor log them, are left out.
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
    """Reads the learning rates of `metrics.csv`: of each group of parameters, the rate by epochs done.

    Before the end of the first epoch nothing says how long one is: then there are none.
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
    """Return the steps done at the end of each epoch: where its training metrics are, else at its last row."""
    ends: dict[int, int] = {}
    whole: dict[int, int] = {}
    for row in rows:
        if "epoch" not in row:
            continue
        epoch, done = int(row["epoch"]), int(row["step"]) + 1
        ends[epoch] = max(done, ends.get(epoch, 0))
        if "train/loss" in row:
            whole[epoch] = done
    return whole or ends


def _rows(metrics: Path) -> Iterator[dict[str, str]]:
    """The rows, each without what it leaves empty."""
    lines = list(
        csv.reader(StringIO(read_text(metrics), newline=""))
    )  # half the time of csv.DictReader, which counts in a list of a thousand runs
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    for row in rows:
        yield {name: value for name, value in zip(header, row, strict=False) if value}  # the last may be half written


def _epochs_done(steps: int, ends: Mapping[int, int]) -> float:
    """The epochs, and the share of the next one, that so many steps are. An epoch without an end is like the last."""
    knots = [(0, 0), *((steps, epoch + 1) for epoch, steps in sorted(ends.items()))]
    above = min(max(bisect_left(knots, (steps,)), 1), len(knots) - 1)
    (low, before), (high, after) = knots[above - 1 : above + 1]
    return before + (after - before) * (steps - low) / (high - low)


def best_epoch(curve: Mapping[int, float], lower: bool = True) -> int | None:
    """The epoch, from 0, at which a curve is best; the first of equals, and none where nothing is a number."""
    finite = {epoch: value for epoch, value in curve.items() if math.isfinite(value)}
    return (min if lower else max)(finite, key=finite.__getitem__, default=None)
