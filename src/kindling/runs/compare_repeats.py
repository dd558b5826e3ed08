"""Comparison of two repeats: the paired difference of each metric, and whether the data supports one."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from rich.table import Table

from kindling.runs.repeat_statistics import MAX_RUNS, Difference, paired_difference
from kindling.runs.repeats import Repeat
from kindling.runs.run import Run
from kindling.runs.text_files import read_text
from kindling.utils.console import new_table, say
from kindling.utils.text import format_like

LEAST_SHOWN = 0.0001  # p-value


class Comparison(NamedTuple):
    """One metric of two repeats.

    Attributes:
        metric: Name of the metric.
        members: Members that have the metric in both repeats.
        difference: That of the second repeat from the first one, member by member.
        level: Mean of the metric in the first repeat, after which its numbers are formatted.
    """

    metric: str
    members: Sequence[str]
    difference: Difference
    level: float

    def format(self, *values: float) -> list[str]:
        """Return values of the metric as text."""
        return format_like(self.level, values)


def compare_repeats(first: Repeat, second: Repeat) -> None:
    """Print the paired differences of two repeats, and a sentence about each test metric.

    Raises:
        ValueError: If fewer than two members have results in both.
    """
    _check_pairs(first, second)
    comparisons = [*_comparisons(first, second)]
    if not comparisons:
        raise ValueError(
            f"{first.path} and {second.path} can't be paired: fewer than two of their finished runs have the same "
            "seed or fold"
        )
    say(_table(first, second, comparisons))
    tested = [each for each in comparisons if each.metric.startswith("test/")] or comparisons
    for each in tested:
        say(f"{each.metric}: {_verdict(each, second)}")


def _check_pairs(first: Repeat, second: Repeat) -> None:
    """Raise ValueError unless runs of the same name have the same seed or fold, and the same test samples."""
    for name in first.members.keys() & second.members.keys():
        if first.members[name] != second.members[name]:
            options = (" ".join(repeat.members[name]) for repeat in (first, second))
            raise ValueError(f"{first.path} and {second.path} can't be paired: {name} is {' and '.join(options)}")
    ours, theirs = first.runs(), second.runs()
    for name in ours.keys() & theirs.keys():
        if _tested(ours[name]) != _tested(theirs[name]):
            raise ValueError(
                f"{ours[name].path} and {theirs[name].path} were tested on different samples: repeat both on the same "
                "data, with the same splits"
            )


def _tested(run: Run) -> list[str]:
    """Return the lines about test samples in the split file of a run; none if its data defines the splits."""
    with suppress(OSError, ValueError):
        return [line for line in read_text(run.path / "split.csv").splitlines() if line.endswith(",test")]
    return []


def _comparisons(first: Repeat, second: Repeat) -> Iterator[Comparison]:
    ours, theirs = first.metrics(), second.metrics()
    for metric in ours:
        members = [member for member in ours[metric] if member in theirs.get(metric, {})]
        if len(members) > 1:
            new, old = ([values[metric][member] for member in members] for values in (theirs, ours))
            yield Comparison(metric, members, paired_difference(new, old, first.overlap), sum(old) / len(old))


def _table(first: Repeat, second: Repeat, comparisons: Sequence[Comparison]) -> Table:
    columns = ("difference", "95% interval", "p-value", "pairs")
    table = new_table(f"{second.path} minus {first.path}", "metric", *columns)
    for each in comparisons:
        found = each.difference.estimate
        mean, low, high = each.format(found.mean, found.low, found.high)
        p_value = f"{each.difference.p_value:.4f}" if each.difference.p_value >= LEAST_SHOWN else f"< {LEAST_SHOWN}"
        table.add_row(each.metric, mean, f"{low} to {high}", p_value, f"{len(each.members)}")
    return table


def _verdict(comparison: Comparison, second: Repeat) -> str:
    """Return whether the data supports a difference, and if not, how many runs would for one of this size."""
    difference = comparison.difference
    mean = difference.estimate.mean
    if difference.estimate.std == mean == 0:
        return "equal in all pairs"
    if difference.is_clear:
        return f"{second.path} is {'higher' if mean > 0 else 'lower'} by {comparison.format(abs(mean))[0]}"
    if second.overlap:
        return "no significant difference"
    needed = f"about {difference.needed}" if difference.needed else f"more than {MAX_RUNS:,}"
    return f"no significant difference; to detect one of this size, {needed} runs of each are needed"
