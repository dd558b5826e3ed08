"""The list of runs as JSON and CSV, for other programs."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kindling.runs.run import Run

# Columns of the CSV file before those of the metrics; `commands`, for example, is only in JSON.
FIELDS = (
    "run",
    "recipe",
    "status",
    "started",
    "heartbeat",
    "seconds",
    "epochs",
    "max_epochs",
    "monitor",
    "best_epoch",
    "commit",
    "changed",
    "modified",
    "tested",
    "parent",
    "reason",
)


def as_record(run: Run) -> dict[str, Any]:
    """Return the content of `run.json` with the current status, the path of the run and its test metrics."""
    return {"run": str(run.path), **asdict(run.metadata), "status": run.status, "test": run.test}


def format_json(runs: Sequence[Run]) -> str:
    """Return a list of runs as JSON."""
    return json.dumps([as_record(run) for run in runs], indent=2, allow_nan=False)


def format_csv(runs: Sequence[Run]) -> str:
    """Return a table with one row per run: `FIELDS`, the validation metrics of the best epoch, the test metrics."""
    metrics = dict.fromkeys(name for run in runs for name in (*run.metadata.best, *run.test) if name != "epoch")
    ordered = sorted(metrics, key=lambda name: (not name.startswith("val/"), name))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIELDS, *ordered])
    for run in runs:
        record = as_record(run) | {"best_epoch": run.metadata.best_epoch}
        writer.writerow([*(record[name] for name in FIELDS), *(run.metric(name) for name in ordered)])
    return text.getvalue().removesuffix("\n")
