"""The table of runs that `kindling runs` prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from kindling.runs.metadata import is_lower_better
from kindling.runs.run import Run
from kindling.utils.errors import UsageError
from kindling.utils.text import format_metric, natural_key, suggest


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


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: Its header.
        text: Returns its cell for a run.
        number: Returns the number to sort by, None if unknown; None for columns of text, which are aligned to the left.
        drop_rank: Of columns with a rank, that with the lowest is omitted first if the terminal is too narrow.
    """

    name: str
    text: Callable[[Run], str]
    number: Callable[[Run], float | None] | None = None
    drop_rank: int | None = None


def metric_column(name: str, drop_rank: int | None = None) -> Column:
    """Return the column of a metric."""
    return Column(name, lambda run: format_metric(run.metric(name)), lambda run: run.metric(name), drop_rank)


BEFORE_METRICS = (
    Column("run", lambda run: str(run.path)),
    Column("recipe", lambda run: run.metadata.recipe, drop_rank=0),
    Column("started", lambda run: local_time(run.metadata.started), drop_rank=4),
    Column("status", lambda run: run.status),
    Column("epochs", format_epochs, lambda run: run.metadata.epochs, drop_rank=5),
)
METRICS = (metric_column("val/loss", drop_rank=3), metric_column("val/accuracy"), metric_column("test/accuracy"))
AFTER_METRICS = (
    Column("time", lambda run: format_duration(run.metadata.seconds), lambda run: run.metadata.seconds, drop_rank=2),
    Column("commit", format_commit, drop_rank=1),
)
COLUMNS = {column.name: column for column in (*BEFORE_METRICS, *METRICS, *AFTER_METRICS)}


def metric_columns(runs: Sequence[Run], sorted_by: str | None = None) -> list[Column]:
    """Return the metrics to list: loss, accuracy (or the first metric of models without it), and the sort key."""
    others: list[str] = []
    for run in runs:
        metrics = [name.removeprefix("val/") for name in run.metadata.best if name not in ("epoch", "val/loss")]
        if metrics and "accuracy" not in metrics:
            others += [f"val/{metrics[0]}", f"test/{metrics[0]}"]
    defaults = [column.name for column in METRICS if not others or any(map(column.text, runs))]
    names = dict.fromkeys([*defaults, *others, *([sorted_by] if sorted_by and "/" in sorted_by else [])])
    return [COLUMNS.get(name) or metric_column(name) for name in names]


def format_table(runs: Sequence[Run], width: int | None = None, sorted_by: str | None = None) -> str:
    """Return the table as text, with the column by which it is sorted, and as many others as fit into the width."""
    shown = [*BEFORE_METRICS, *metric_columns(runs, sorted_by), *AFTER_METRICS]
    if all(run.metadata.recipe == run.path.parent.name for run in runs):
        shown.remove(COLUMNS["recipe"])  # same as the folder
    cells = {column: [column.name, *map(column.text, runs)] for column in shown}
    widths = {column: max(map(len, texts)) for column, texts in cells.items()}
    dropped: list[str] = []
    ranked = (column for column in shown if column.drop_rank is not None)
    for column in sorted(ranked, key=lambda column: column.drop_rank or 0):
        if width and sum(widths[each] + 2 for each in cells) - 2 > width:
            dropped.append(column.name)
            del cells[column]
    padded = [
        [text.rjust(widths[column]) if column.number else text.ljust(widths[column]) for text in texts]
        for column, texts in cells.items()
    ]
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    if dropped:
        lines.append(f"(not shown, for lack of space: {', '.join(dropped)})")
    return "\n".join(lines)


def sort_by(runs: Sequence[Run], name: str) -> list[Run]:
    """Sort runs by a column, the best last, next to the prompt; those without a value come first.

    Raises:
        UsageError: If the column does not exist.
    """
    known = {*COLUMNS, *(metric for run in runs for metric in (*run.metadata.best, *run.test)), "test/loss"} - {"epoch"}
    if name not in known:
        near = suggest(name, known) or f": choose from {', '.join(COLUMNS)}"
        raise UsageError(f"there is no column {name}{near}")
    column = COLUMNS.get(name) or metric_column(name)
    if column.number is None:
        return sorted(runs, key=lambda run: natural_key(column.text(run)))
    sign = -1 if is_lower_better(name) else 1
    values = [(run, column.number(run)) for run in runs]
    return [run for run, _ in sorted(values, key=lambda pair: (pair[1] is not None, sign * (pair[1] or 0)))]
