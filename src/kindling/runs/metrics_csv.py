"""Writes `metrics.csv`, the metrics of a run by step."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from typing_extensions import override

from kindling.utils.files import atomic_write, naming_the_file
from kindling.utils.text import count_noun

logger = logging.getLogger(__name__)


class MetricsWriter(ExperimentWriter):
    """Write `metrics.csv` without losing rows: Lightning's writer empties the file to change its header.

    A resumed run gets a new file with the rows up to its checkpoint, so a copy of a run shares no file with the
    original.

    Args:
        log_dir: The run folder.
        rows: The rows to begin with.
    """

    def __init__(self, log_dir: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(log_dir)
        self._path = Path(self.metrics_file_path)
        if rows:
            self._begin(rows)
        else:
            self._path.unlink(missing_ok=True)

    @override
    def _check_log_dir_exists(self) -> None:
        # It would delete the file before the new one is complete:
        # https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.1/src/lightning/fabric/loggers/csv_logs.py
        pass

    @override
    def save(self) -> None:
        if not self.metrics:
            return
        if set().union(*self.metrics) <= set(self.metrics_keys):
            with naming_the_file(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, fieldnames=self.metrics_keys).writerows(self.metrics)
        else:
            self._begin((complete_rows(self._path) if self._path.exists() else []) + self.metrics)
        self.metrics = []

    def _begin(self, rows: list[dict[str, Any]]) -> None:
        self.metrics_keys = sorted(set(self.metrics_keys).union(*rows))
        with atomic_write(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=self.metrics_keys)
            table.writeheader()
            table.writerows(rows)


class MetricsLogger(CSVLogger):
    """Log to `metrics.csv` of a run.

    Args:
        rows: The rows that the run already has.
        **where: `save_dir`, `name` and `version` of the run, see `CSVLogger`.
    """

    def __init__(self, rows: list[dict[str, Any]], **where: Any) -> None:
        super().__init__(**where)
        self._rows = rows

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> MetricsWriter:
        if not isinstance(self._experiment, MetricsWriter):
            self._experiment = MetricsWriter(self.log_dir, self._rows)
        return self._experiment


def complete_rows(table: Path) -> list[dict[str, Any]]:
    """Read the rows of `metrics.csv`, without a last row that was cut off; leave damaged ones out with a warning."""
    text = table.read_text("utf-8", errors="replace").replace("\0", "\ufffd")
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    intact = [row for row in rows if _is_intact(row)]
    if len(intact) < len(rows):
        logger.warning(f"{table} is damaged: {count_noun(len(rows) - len(intact), 'row is', 'rows are')} left out")
    return intact


def _is_intact(row: Mapping[Any, Any]) -> bool:
    """Return whether a row has as many fields as the header, all readable."""
    return "step" in row and None not in row and None not in row.values() and "\ufffd" not in str(row)


def is_before_step(row: Mapping[str, str | None], steps: int) -> bool:
    """Return whether a row of `metrics.csv` belongs to one of the first steps; false for a row that was cut off."""
    step = row["step"] or ""
    return step.isdigit() and int(step) < steps
