"""`benchmark.py tables`: `kindling fit` beside other ways to learn from a table, on the same rows and splits.

For each split and table, the methods take turns, each as a process with one thread that is timed from start to exit: it
imports what it needs, reads the CSV files, trains, and writes predictions for the test rows. Only `kindling fit` also
writes checkpoints, logs, plots and a report. Loading the table and computing the metrics are not timed.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import train_test_split
from table_baselines import METHODS

from table_sets import HELD_OUT, NUMBERS, TUNING, TableSet

SCRIPTS = Path(__file__).resolve().parent
KINDLING, REALMLP = "kindling fit", "RealMLP-TD-S"
RECIPE = SCRIPTS.parent / "configs" / "table_mlp.yaml"
TEST_SHARE = 0.2
Result = dict[str, Any]


def write_split(one: TableSet, is_numbers: bool, seed: int, folder: Path) -> None:
    """Write `train.csv` and `test.csv`, stratified by class."""
    frame = one.load()
    strata = None if is_numbers else frame[one.target]
    train, test = train_test_split(frame, test_size=TEST_SHARE, random_state=seed, stratify=strata)
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)


def run(method: str, target: str, is_numbers: bool, seed: int, folder: Path) -> tuple[pd.DataFrame, float, float]:
    """Return the predictions for the test rows, and the seconds of the process and of training, with one thread."""
    if method == KINDLING:
        task = "regression" if is_numbers else "classification"
        data = {"path": "train.csv", "test_path": "test.csv", "target": target, "task": task, "split_seed": seed}
        options = [text for name, value in data.items() for text in (f"--data.{name}", str(value))]
        options += ["--seed_everything", str(seed), "--trainer.accelerator", "cpu"]
        command, out = ["-m", "kindling", "fit", "--config", str(RECIPE), *options], "runs/table_mlp/*/predictions.csv"
    else:
        out = "predictions.csv"
        command = [str(SCRIPTS / "table_baselines.py"), method, "train.csv", "test.csv", target, str(seed), out]
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{method} failed: {done.stderr.strip().splitlines()[-1]}")
    path = next(folder.glob(out))
    record = (path.parent / "run.json").read_text() if method == KINDLING else done.stdout.strip().splitlines()[-1]
    predictions = pd.read_csv(path, dtype={} if is_numbers else {"label": str, "prediction": str})
    return predictions, seconds, json.loads(record)["seconds"]


def score(predictions: pd.DataFrame, is_numbers: bool) -> Result:
    """Return the metrics of predictions; the normalized RMSE is in standard deviations of the test targets."""
    if is_numbers:
        targets = predictions["target"]
        rmse = float(np.sqrt(np.mean((predictions["prediction"] - targets) ** 2)))
        return {"rmse": rmse, "nrmse": rmse / float(targets.std(ddof=0))}
    labels = predictions["label"]
    columns = [f"p({label})" if f"p({label})" in predictions else label for label in labels]
    found = predictions.to_numpy()[np.arange(len(labels)), predictions.columns.get_indexer(columns)]
    probabilities = np.clip(found.astype(float), 1e-7, 1)
    return {"accuracy": float((predictions["prediction"] == labels).mean()), "log_loss": -np.log(probabilities).mean()}


def read_results(cache: Path) -> list[Result]:
    """Return the results in a file, which loses a last line that was not written completely."""
    lines = cache.read_text().splitlines(keepends=True) if cache.exists() else []
    if lines and not lines[-1].endswith("\n"):
        cache.write_text("".join(lines := lines[:-1]))
    return [json.loads(line) for line in lines]


def measure(methods: list[str], sets: list[str], seeds: int, cache: Path) -> Iterator[Result]:
    """Yield a result for each set, seed and method; those in the file `cache` are not measured again."""
    known = read_results(cache)
    for seed, name in itertools.product(range(seeds), sets):
        one, is_numbers = {**TUNING, **HELD_OUT}[name], name in NUMBERS
        with tempfile.TemporaryDirectory() as folder:
            for method in methods:
                key = {"set": name, "seed": seed, "method": method}
                if found := next((one for one in known if key.items() <= one.items()), None):
                    yield found
                    continue
                if not (Path(folder) / "train.csv").exists():
                    write_split(one, is_numbers, seed, Path(folder))
                predictions, seconds, training = run(method, one.target, is_numbers, seed, Path(folder))
                result = key | score(predictions, is_numbers) | {"seconds": seconds, "training_seconds": training}
                with cache.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)
                yield result


def tabulate(results: list[Result], methods: list[str], sets: list[str], metric: str, title: str) -> Table:
    """Return a table of the mean of a metric over the seeds, with the means over the sets in the last row.

    Seconds have one more column: those of Kindling divided by those of RealMLP-TD-S, in the last row those of all sets.
    """
    are_seconds = "seconds" in metric
    has_ratio = are_seconds and {KINDLING, REALMLP} <= {*methods}
    table = Table(title=title)
    for column in ("", *methods, *([f"{KINDLING} / {REALMLP}"] if has_ratio else [])):
        table.add_column(column)
    rows = {name: [mean_of(results, metric, name, method) for method in methods] for name in sets}
    rows["mean"] = [statistics.mean(column) for column in zip(*rows.values(), strict=True)]
    for name, values in rows.items():
        cells = [f"{value:{'.1f' if are_seconds else '.4f'}}" for value in values]
        if has_ratio:
            cells.append(f"{values[methods.index(KINDLING)] / values[methods.index(REALMLP)]:.2f}")
        table.add_row(name, *cells)
    return table


def mean_of(results: list[Result], metric: str, name: str, method: str) -> float:
    """Return the mean of a metric over the seeds."""
    values = [float(one[metric]) for one in results if (one["set"], one["method"]) == (name, method)]
    return statistics.mean(values)


def is_available(name: str) -> bool:
    """Return whether the package of a set is installed; if not, say so."""
    try:
        return len({**TUNING, **HELD_OUT}[name].load()) > 0
    except FileNotFoundError as error:
        print(f"skipped {name}: {error}")
        return False


def tables(seeds: int, wanted: list[str], methods: list[str], out: Path) -> dict[str, Any]:
    """Measure some methods, by default all, on some sets, by default those that are held out."""
    methods = methods or [KINDLING, *METHODS]
    if REALMLP in methods and not find_spec("pytabkit"):
        methods.remove(REALMLP)
        print(f"skipped {REALMLP}: pytabkit is not installed")
    sets = [name for name in wanted or HELD_OUT if is_available(name)]
    results = [*measure(methods, sets, seeds, out / "tables.jsonl")]
    classes, numbers = [name for name in sets if name not in NUMBERS], [name for name in sets if name in NUMBERS]
    shown = [(classes, "accuracy"), (classes, "log_loss"), (numbers, "nrmse"), (numbers, "rmse")]
    shown += [(sets, "seconds"), (sets, "training_seconds")]
    for chosen, metric in shown:
        if chosen:
            title = f"{metric}, mean of {seeds} splits"
            Console(width=130).print(tabulate(results, methods, chosen, metric, title))
    return {"seeds": seeds, "results": results}
