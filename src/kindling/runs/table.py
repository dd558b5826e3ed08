"""The list of runs: columns that a person reads and a script can cut."""

from collections.abc import Callable, Sequence
from datetime import datetime

from kindling.runs.listing import Run, natural_key
from kindling.runs.metadata import is_lower_better
from kindling.utils.errors import UsageError
from kindling.utils.text import format_metric, suggest

FIGURES = ("val/loss", "val/accuracy", "test/accuracy")


def duration(seconds: float | None) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def local_time(moment: str) -> str:
    """A time of a record, to the minute, as the clock on the wall had it."""
    try:
        return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return ""


def epochs(run: Run) -> str:
    """Epochs done and asked for: 3/12."""
    done, planned = run.record.epochs, run.record.planned
    return "" if done is None else f"{done}/{planned}" if planned else str(done)


def commit(run: Run) -> str:
    """The commit, with + where the files differed from it."""
    return run.record.commit[:7] + "+" * (bool(run.record.commit) and run.record.changed)


BEFORE: dict[str, Callable[[Run], str]] = {
    "run": lambda run: str(run.path),
    "recipe": lambda run: run.record.recipe,
    "started": lambda run: local_time(run.record.started),
    "status": lambda run: run.status,
    "epochs": epochs,
}
AFTER: dict[str, Callable[[Run], str]] = {"time": lambda run: duration(run.record.seconds), "commit": commit}
COLUMNS = (*BEFORE, *FIGURES, *AFTER)
WORDS = ("run", "recipe", "started", "status", "commit")
# A window that is too narrow does without these, in this order.
SPARED = ("recipe", "commit", "time", "val/loss", "started", "epochs")


def figures_of(runs: Sequence[Run], sorted_by: str | None = None) -> list[str]:
    """The figures that a list shows: loss and accuracy, or the first metric of models without; and the sorted one."""
    others: list[str] = []
    for run in runs:
        metrics = [name.removeprefix("val/") for name in run.record.best if name not in ("epoch", "val/loss")]
        if metrics and "accuracy" not in metrics:
            others += [f"val/{metrics[0]}", f"test/{metrics[0]}"]
    usual = [name for name in FIGURES if not others or any(run.figure(name) is not None for run in runs)]
    return list(dict.fromkeys([*usual, *others, *([sorted_by] if sorted_by and "/" in sorted_by else [])]))


def table(runs: Sequence[Run], width: int | None = None, sorted_by: str | None = None) -> str:
    """The list as text.

    Args:
        runs: The runs, in order.
        width: Of the window in characters; without one, all columns are there in full.
        sorted_by: The column that they are sorted by, if any: it is shown in any case.
    """
    cells = {name: [name, *map(value, runs)] for name, value in BEFORE.items()}
    cells |= {name: [name, *(format_metric(run.figure(name)) for run in runs)] for name in figures_of(runs, sorted_by)}
    cells |= {name: [name, *map(value, runs)] for name, value in AFTER.items()}
    if all(run.record.recipe == run.path.parent.name for run in runs):
        del cells["recipe"]  # the folder says it
    widths = {name: max(map(len, column)) for name, column in cells.items()}
    spared = []
    for name in SPARED:
        if width and name in cells and sum(widths[kept] + 2 for kept in cells) - 2 > width:
            spared.append(name)
            del cells[name]
    padded = [
        [cell.ljust(widths[name]) if name in WORDS else cell.rjust(widths[name]) for cell in column]
        for name, column in cells.items()
    ]
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    return "\n".join(lines + [f"(a wider window has: {', '.join(spared)})"] * bool(spared))


def sort_by(runs: Sequence[Run], column: str) -> list[Run]:
    """Puts the runs in the order of a column, the best last: it is what one sees. Those without a value come first.

    Raises:
        UsageError: If there is no such column.
    """
    known = {*COLUMNS, *(name for run in runs for name in (*run.record.best, *run.test)), "test/loss"} - {"epoch"}
    if column not in known:
        near = suggest(column, known) or f": there are {', '.join(COLUMNS)}"
        raise UsageError(f"there is no column {column}{near}")
    numbers = {"epochs": lambda run: run.record.epochs, "time": lambda run: run.record.seconds}
    if column in WORDS:
        return sorted(runs, key=lambda run: natural_key((BEFORE | AFTER)[column](run)))
    value: Callable[[Run], float | None] = numbers.get(column, lambda run: run.figure(column))
    sign = -1 if is_lower_better(column) else 1
    return sorted(runs, key=lambda run: (value(run) is not None, sign * (value(run) or 0)))
