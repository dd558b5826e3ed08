"""docs/run-folders.md and docs/run.schema.json describe what runs really write."""

import csv
import io
import json
import re
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from conftest import CONFIGS, TINY, Command, Train
from kindling.runs.metadata import FORMAT, RunMetadata

DOCS = CONFIGS.parent / "docs"
PAGE = (DOCS / "run-folders.md").read_text(encoding="utf-8")
SCHEMA = json.loads((DOCS / "run.schema.json").read_text(encoding="utf-8"))
RUN = Path("runs/tiny/version_0")


def described(heading: str) -> list[str]:
    """Return the names in the first column of the table below a heading, with * for parts that vary."""
    table = PAGE.partition(f"\n{heading}\n")[2].partition(" | content |\n|---|---|\n")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert names
    return [re.sub("<.*?>", "*", name) + "*" * name.endswith("/") for name in names]


def unknown(names: list[str], patterns: list[str]) -> list[str]:
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)]


def columns(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()[0].split(",")


def test_run_json_has_the_described_fields() -> None:
    fields = asdict(RunMetadata())
    assert [*SCHEMA["properties"]] == SCHEMA["required"] == [*fields]
    assert SCHEMA["properties"]["format"]["const"] == FORMAT == fields["format"]
    page = PAGE.partition("### run.json")[2].partition("\n### ")[0]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [*fields]


@pytest.mark.usefixtures("pictures")
def test_each_file_of_a_run_on_images_is_described(kindling: Command) -> None:
    for number in range(24):
        path = Path("photos", ("cat", "dog")[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * number, 200 * (number % 2), 0)).save(path)
    model = "--model CNNClassifier --model.channels [4] --data ImageFolderDataModule --data.data_dir photos"
    small = f"{model} --data.image_size 16 --data.batch_size 2 --run_name tiny --trainer.max_epochs 2 --profile"
    for command in (
        f"fit {small}",
        "predict --ckpt_path best --data.predict photos/cat",
        "export --ckpt_path best --format torchscript",
    ):
        result = kindling(*command.split())
        assert result.code == 0, result.err
    written = [path.relative_to(RUN).as_posix() for path in RUN.rglob("*") if path.is_file()]
    assert {"report.html", "profile.txt", "profile.pt.trace.json", "split.csv", "predictions_cat.csv"} <= {*written}
    assert unknown(written, described("Each `fit` creates one folder, `runs/<recipe>/version_<n>/`:")) == []
    jsonschema.validate(json.loads((RUN / "run.json").read_text()), SCHEMA)
    fixed = [name for name in described("### predictions.csv") if name != "*"]  # * is the name of a class
    assert unknown(columns(RUN / "predictions.csv"), [*fixed, "cat", "dog"]) == []
    assert columns(RUN / "split.csv") == ["file", "class", "split"]
    assert {"file", "label", "prediction", "probability"} <= {*columns(RUN / "predictions.csv")}


def test_columns_and_metrics_are_described(trained: Train) -> None:
    trained(*TINY)
    metrics = columns(RUN / "metrics.csv")
    assert unknown(metrics, described("### metrics.csv")) == []
    assert {"step", "epoch", "train/loss", "val/loss", "lr", "gradient_norm"} <= {*metrics}
    values = json.loads((RUN / "test_metrics.json").read_text())
    assert all(name.startswith("test/") and isinstance(value, float) for name, value in values.items())


def test_runs_are_printed_for_other_programs(kindling: Command, trained: Train) -> None:
    assert (kindling("runs", "--format", "json").out, kindling("runs", "--format", "csv").code) == ("[]\n", 0)
    trained(*TINY)
    (record,) = json.loads(kindling("runs", "--format", "json").out)
    jsonschema.validate(record, SCHEMA)
    stored: dict[str, Any] = json.loads((RUN / "run.json").read_text())
    measured = json.loads((RUN / "test_metrics.json").read_text())
    assert record == {"run": str(RUN), **stored, "test": measured}
    result = kindling("runs", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(result.out))
    assert (row["run"], row["status"], row["best_epoch"]) == (str(RUN), "finished", str(stored["best"]["epoch"]))
    assert float(row["val/loss"]) == stored["best"]["val/loss"]
    assert float(row["test/accuracy"]) == measured["test/accuracy"]
    ended = stored["process"] | {"began": 0.0, "after_boot": -9.0}
    Path(RUN, "run.json").write_text(json.dumps(stored | {"process": ended, "status": "running"}))
    assert json.loads(kindling("runs", "--format", "json").out)[0]["status"] == "failed"
