"""The table of runs that `kindling runs` prints."""

from collections.abc import Callable, Sequence
from datetime import datetime

from kindling.runs.metadata import is_lower_better
from kindling.runs.run import Run, natural_key
from kindling.utils.errors import UsageError
from kindling.utils.text import format_metric, suggest

METRICS = ("val/loss", "val/accuracy", "test/accuracy")


def format_duration(seconds: float | None) -> str:
    """Return seconds as 0:07, 12:34 or 1:02:03; empty for None."""
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def local_time(timestamp: str) -> str:
    """Return an ISO 8601 timestamp as local time, to the minute; empty if it is invalid."""
    try:
        return f"{datetime.fromisoformat(timestamp).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return ""


def format_epochs(run: Run) -> str:
    """Return the completed and the planned epochs: 3/12."""
    done, total = run.metadata.epochs, run.metadata.max_epochs
    return "" if done is None else f"{done}/{total}" if total else str(done)


def format_commit(run: Run) -> str:
    """Return the short commit, with + if there were uncommitted changes."""
    commit = run.metadata.commit[:7]
    return f"{commit}+" if commit and run.metadata.changed else commit


LEFT_COLUMNS: dict[str, Callable[[Run], str]] = {
    "run": lambda run: str(run.path),
    "recipe": lambda run: run.metadata.recipe,
    "started": lambda run: local_time(run.metadata.started),
    "status": lambda run: run.status,
    "epochs": format_epochs,
}
RIGHT_COLUMNS: dict[str, Callable[[Run], str]] = {
    "time": lambda run: format_duration(run.metadata.seconds),
    "commit": format_commit,
}
COLUMNS = (*LEFT_COLUMNS, *METRICS, *RIGHT_COLUMNS)
TEXT_COLUMNS = ("run", "recipe", "started", "status", "commit")
# Columns to omit, in this order, if the terminal is too narrow.
DROP_ORDER = ("recipe", "commit", "time", "val/loss", "started", "epochs")


def metric_columns(runs: Sequence[Run], sorted_by: str | None = None) -> list[str]:
    """Return the metrics to list: loss, accuracy (or the first metric of models without it), and the sort key."""
    others: list[str] = []
    for run in runs:
        metrics = [name.removeprefix("val/") for name in run.metadata.best if name not in ("epoch", "val/loss")]
        if metrics and "accuracy" not in metrics:
            others += [f"val/{metrics[0]}", f"test/{metrics[0]}"]
    defaults = [name for name in METRICS if not others or any(run.metric(name) is not None for run in runs)]
    return list(dict.fromkeys([*defaults, *others, *([sorted_by] if sorted_by and "/" in sorted_by else [])]))


def format_table(runs: Sequence[Run], width: int | None = None, sorted_by: str | None = None) -> str:
    """Return the table as text.

    Args:
        runs: The runs, in order.
        width: Width of the terminal in characters; None shows all columns.
        sorted_by: Column that they are sorted by, which is always shown.
    """
    metrics = metric_columns(runs, sorted_by)
    cells = {name: [name, *map(value, runs)] for name, value in LEFT_COLUMNS.items()}
    cells |= {name: [name, *(format_metric(run.metric(name)) for run in runs)] for name in metrics}
    cells |= {name: [name, *map(value, runs)] for name, value in RIGHT_COLUMNS.items()}
    if all(run.metadata.recipe == run.path.parent.name for run in runs):
        del cells["recipe"]  # same as the folder
    widths = {name: max(map(len, column)) for name, column in cells.items()}
    dropped = []
    for name in DROP_ORDER:
        if width and name in cells and sum(widths[shown] + 2 for shown in cells) - 2 > width:
            dropped.append(name)
            del cells[name]
    padded = [
        [cell.ljust(widths[name]) if name in TEXT_COLUMNS else cell.rjust(widths[name]) for cell in column]
        for name, column in cells.items()
    ]
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    if dropped:
        lines.append(f"(not shown, for lack of space: {', '.join(dropped)})")
    return "\n".join(lines)


def sort_by(runs: Sequence[Run], column: str) -> list[Run]:
    """Sort runs by a column, the best last, next to the prompt; those without a value come first.

    Raises:
        UsageError: If the column does not exist.
    """
    known = {*COLUMNS, *(name for run in runs for name in (*run.metadata.best, *run.test)), "test/loss"} - {"epoch"}
    if column not in known:
        near = suggest(column, known) or f": choose from {', '.join(COLUMNS)}"
        raise UsageError(f"there is no column {column}{near}")
    if column in TEXT_COLUMNS:
        return sorted(runs, key=lambda run: natural_key((LEFT_COLUMNS | RIGHT_COLUMNS)[column](run)))
    numbers = {"epochs": lambda run: run.metadata.epochs, "time": lambda run: run.metadata.seconds}
    value: Callable[[Run], float | None] = numbers.get(column, lambda run: run.metric(column))
    sign = -1 if is_lower_better(column) else 1
    return sorted(runs, key=lambda run: (value(run) is not None, sign * (value(run) or 0)))
