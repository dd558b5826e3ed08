"""`kindling repeat` and the comparison of two repeats."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.model_selection import StratifiedKFold

from conftest import TINY, Command, different, make_run
from kindling import TableDataModule
from kindling.runs.folders import written_checkpoints
from kindling.runs.metadata import RunMetadata
from kindling.runs.repeat_results import repeat_table, summarize
from kindling.runs.repeat_statistics import estimate, paired_difference
from kindling.runs.repeats import Repeat, digest_files
from kindling.utils.console import say

OPTIONS = [option for option in TINY if option not in ("--run_name", "tiny")]
REPEAT = ["repeat", *OPTIONS, "--run_name", "tiny", "--seeds", "2", "--format", "json"]


def accuracy(run: str) -> float:
    value: float = json.loads(Path(run, "test_metrics.json").read_text())["test/accuracy"]
    return value


def best(run: str) -> Path:
    return Path(run, "checkpoints", "best.ckpt")


def test_runs_equal_those_of_fit_with_each_seed_and_are_summarized(kindling: Command) -> None:
    result = kindling(*REPEAT, "--jobs", 2)
    assert (result.code, result.err) == (0, "")
    for seed in (42, 43):
        assert kindling("fit", *OPTIONS, "--run_name", "alone", "--seed_everything", seed).code == 0
        run = f"runs/tiny/repeat_0/seed_{seed}/version_0"
        assert different(best(run), best(f"runs/alone/version_{seed - 42}")) == []
    summary = json.loads(result.out)
    assert summary == json.loads(Path("runs/tiny/repeat_0/summary.json").read_text())
    values = [accuracy(f"runs/alone/version_{number}") for number in (0, 1)]
    found = summary["test/accuracy"]
    assert found["values"] == {"seed_42": values[0], "seed_43": values[1]}
    interval = stats.t.interval(0.95, 1, sum(values) / 2, stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx(np.clip(interval, 0, 1))
    assert found["std"] == pytest.approx(stats.tstd(values))


@pytest.mark.slow
def test_the_same_command_trains_only_what_is_missing(kindling: Command) -> None:
    assert kindling(*REPEAT).code == 0
    runs = sorted(Path("runs/tiny/repeat_0").glob("seed_*/version_0"))
    before = {run: (run / "run.json").stat().st_mtime_ns for run in runs}
    (runs[1] / "run.json").unlink()
    os.rename(runs[1], "elsewhere")
    again = kindling(*REPEAT[:-2])
    assert again.code == 0
    assert "1 of 2 runs finished before" in again.out
    assert (runs[0] / "run.json").stat().st_mtime_ns == before[runs[0]]
    assert different(best(str(runs[1])), best("elsewhere")) == []
    assert Path("runs/tiny/repeat_0/repeat.png").exists()
    assert "│ test/accuracy" in again.out
    assert sorted(Path("runs/tiny").iterdir()) == [Path("runs/tiny/repeat_0")]
    Path("runs/tiny/repeat_old").mkdir()
    other = kindling(*REPEAT, "--trainer.max_epochs", 1)  # another command is another repeat
    assert other.code == 0
    assert Path("runs/tiny/repeat_1").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_a_killed_repeat_continues_to_the_same_bits(kindling: Command) -> None:
    options = [*OPTIONS, "--trainer.max_epochs", "40", "--early_stopping.patience", "null"]
    command = [sys.executable, "-m", "kindling", "repeat", *options, "--run_name", "killed", "--seeds", "2"]
    started = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    last = Path("runs/killed/repeat_0/seed_42/version_0/checkpoints/last.ckpt")
    until = time.monotonic() + 60
    while not last.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not Path("runs/killed/repeat_0/seed_43").exists()
    subprocess.run(command, check=True)
    assert kindling("repeat", *options, "--run_name", "whole", "--seeds", 2, "--jobs", 2).code == 0
    for seed in (42, 43):
        runs = (f"runs/{name}/repeat_0/seed_{seed}/version_0" for name in ("killed", "whole"))
        assert different(*map(best, runs)) == []


@pytest.mark.slow
def test_the_run_stops_and_resumes_if_only_the_command_is_killed(kindling: Command) -> None:
    options = [*OPTIONS, "--trainer.max_epochs", "400", "--early_stopping.patience", "null"]
    command = [sys.executable, "-m", "kindling", "repeat", *options, "--run_name", "killed", "--seeds", "2"]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = Path("runs/killed/repeat_0/seed_42/version_0")
    until = time.monotonic() + 120
    while not (run / "checkpoints/last.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    started.kill()
    started.wait()
    while RunMetadata.read(run).status == "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert RunMetadata.read(run).status == "stopped"
    assert kindling("fit", "--ckpt_path", run, "--trainer.max_steps", "1000").code == 0


def test_best_is_not_a_run_of_a_repeat_if_there_are_others() -> None:
    make_repeat("a", [0.9, 0.8])
    members = [Path(f"runs/a/repeat_0/seed_{seed}/version_0/checkpoints/best.ckpt") for seed in (0, 1)]
    Path("runs/a/repeat_0").mkdir()
    for path in Path("runs/a").iterdir():
        if path.name != "repeat_0":
            path.rename(f"runs/a/repeat_0/{path.name}")
    for path in members:
        path.parent.mkdir()
        path.touch()
    assert written_checkpoints(Path("runs")) == members
    alone = Path("runs/a/version_0/checkpoints/best.ckpt")
    alone.parent.mkdir(parents=True)
    alone.touch()
    os.utime(alone, (0, 0))  # older than the others
    assert written_checkpoints(Path("runs"))[-1] == written_checkpoints(Path("runs/a"))[-1] == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.dropuot", "0.1"], "MLPClassifier has no option model.dropuot: did you mean model.dropout?"),
        (["--config", "quickstrt"], "there is no recipe quickstrt: did you mean quickstart?"),
        (["--seeds", "1"], "--seeds must be at least 2, got 1"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--ckpt_path", "best"], "--ckpt_path is for a single run: use kindling fit"),
        (["--run_name", "../x"], "--run_name '../x': it must be a folder inside runs/, such as a or a/b"),
    ],
)
def test_an_invalid_option_is_named_once_and_leaves_nothing(
    kindling: Command, options: list[str], message: str
) -> None:
    result = kindling(*REPEAT, *options)
    assert (result.code, result.err) == (2, f"kindling: error: {message}\n")
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


@pytest.mark.slow
def test_failed_runs_are_named_and_the_others_trained(kindling: Command, tmp_path: Path) -> None:
    plugin = tmp_path / "flaky.py"
    plugin.write_text(
        "import torch\nfrom kindling import MLPClassifier\n"
        "class Flaky(MLPClassifier):\n"
        "    def on_train_epoch_end(self):\n"
        "        if torch.initial_seed() == 43:\n"
        "            raise ValueError('the disk is on fire')\n"
    )
    data = OPTIONS[OPTIONS.index("--data") :]
    result = kindling("repeat", "--plugin", plugin, "--model", "Flaky", *data, "--seeds", 3, "--format", "json")
    assert result.code == 1
    assert "seed_43 failed: " in result.err
    assert "the disk is on fire" in result.err
    assert [*json.loads(result.out)["test/accuracy"]["values"]] == ["seed_42", "seed_44"]


def test_statistics_agree_with_scipy_and_with_nadeau_and_bengio() -> None:
    ours, theirs = [0.91, 0.93, 0.90, 0.95, 0.92], [0.90, 0.90, 0.91, 0.93, 0.89]
    found = paired_difference(ours, theirs)
    expected = stats.ttest_rel(ours, theirs)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.estimate[2:] == pytest.approx(tuple(expected.confidence_interval(0.95)))
    # Five folds: the variance of the mean is (1/5 + 1/4) times that of the folds, instead of 1/5.
    mean, low = estimate(ours).mean, estimate(ours).low
    assert mean - estimate(ours, overlap=1 / 4).low == pytest.approx((mean - low) * ((1 / 5 + 1 / 4) / (1 / 5)) ** 0.5)


def test_intervals_end_at_the_limits_of_their_metrics() -> None:
    values = {"test/accuracy": [0.97, 0.995], "test/r2": [0.9, 0.99], "test/mae": [1.0, 9.0], "test/loss": [0.1, 0.9]}
    values["val_accuracy"] = [97.0, 99.5]  # in percent, from another library
    values["val/loss"] = [-0.1, 0.9]  # of a density
    summary = summarize({name: dict(enumerate(map(float, pair))) for name, pair in values.items()}, 0)  # type: ignore[arg-type]
    ends = {name: stats.t.interval(0.95, 1, np.mean(pair), stats.sem(pair)) for name, pair in values.items()}
    limits = {"test/accuracy": (0, 1), "test/r2": (-np.inf, 1), "test/mae": (0, np.inf), "test/loss": (0, np.inf)}
    for name, found in summary.items():
        assert (found["low"], found["high"]) == pytest.approx(np.clip(ends[name], *limits.get(name, (-np.inf, np.inf))))
        is_cut = (found["low"], found["high"]) != pytest.approx(ends[name])
        note = repeat_table("", {name: found}).caption
        assert (note is not None) == is_cut == (name in limits), name


def test_the_numbers_of_a_metric_have_the_same_decimals(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"test/mae": {"seed_1": 44.5, "seed_2": 46.25}, "test/accuracy": {"seed_1": 0.9, "seed_2": 0.91234}}
    metrics |= {"test/roc_auc": {"seed_1": 1.0, "seed_2": 1.0}, "test/map": {"seed_1": 0.0, "seed_2": 0.0}}
    say(repeat_table("", summarize(metrics, 0)))
    rows = [re.findall(r"-?[\d.]+", line) for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [{len(number.partition(".")[2]) for number in row[:-1]} for row in rows] == [{2}, {4}, {4}, {4}]


def test_needed_runs_are_those_at_which_the_difference_becomes_significant() -> None:
    differences = [0.01, 0.03, -0.02, 0.02]
    needed = paired_difference(differences, [0.0] * 4).needed
    mean, std = sum(differences) / 4, stats.tstd(differences)

    def p_value(runs: int) -> float:
        return float(2 * stats.t.sf(mean / (std / runs**0.5), runs - 1))

    assert needed is not None
    assert p_value(needed) < 0.05 <= p_value(needed - 1)


def write_noise(rows: int = 240) -> None:
    """Write noise.csv: no column tells the class, but each shop has two rows, which a leak would connect."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"shop": np.arange(rows) // 2, "x": random.normal(size=rows).round(3)})
    frame["shop"] = "shop " + frame["shop"].astype(str)
    frame["class"] = np.repeat(random.choice(["yes", "no"], rows // 2), 2)
    frame.to_csv("noise.csv", index=False)


def folds(number: int, **options: Any) -> list[Any]:
    modules = (TableDataModule("noise.csv", "class", fold=f"{k}/{number}", **options) for k in range(1, number + 1))
    return [data.splits for data in modules]


def test_each_row_is_tested_in_one_fold_stratified_by_class() -> None:
    write_noise()
    classes = pd.read_csv("noise.csv")["class"]
    tested = [splits == "test" for splits in folds(5)]
    assert np.sum(tested, axis=0).tolist() == [1] * 240
    expected = [test for _, test in StratifiedKFold(5, shuffle=True, random_state=42).split(classes, classes)]
    assert [np.flatnonzero(rows).tolist() for rows in tested] == [rows.tolist() for rows in expected]
    for splits in folds(4, groups="shop"):
        frame = pd.read_csv("noise.csv").assign(split=splits)
        assert (frame.groupby("shop")["split"].nunique() == 1).all()
        assert {*splits} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "6/5"}, "`fold` must be a fold and the number of folds, such as 1/5, got 6/5"),
        ({"fold": "1/5", "test_path": "other.csv"}, "`fold` 1/5 and `test_path` both define the test rows"),
        ({"fold": "1/500"}, "500 folds need at least 500 rows, got 240"),
        ({"fold": "1/200", "groups": "shop"}, "200 folds need at least 200 groups, got 120"),
        ({"fold": "1/150"}, "150 folds need a class with at least 150 rows, but the largest has 1"),
        ({"fold": "1/5", "time": "x"}, "--data.fold 1/5 would test on rows older than training rows"),
    ],
)
def test_impossible_folds_are_named(options: dict[str, Any], message: str) -> None:
    write_noise()
    with pytest.raises(ValueError, match=message):
        TableDataModule("noise.csv", "class", **options).splits  # noqa: B018


def test_cross_validation_predicts_each_row_once_and_learns_nothing_from_its_test_rows(kindling: Command) -> None:
    write_noise()
    options = (
        "--model MLPClassifier --model.hidden [8] --data TableDataModule --data.path noise.csv --data.target class"
    )
    command = f"repeat --folds 3 {options} --data.groups shop --trainer.max_epochs 5 --jobs 2 --format json"
    result = kindling(*command.split())
    assert result.code == 0, result.err
    predictions = pd.read_csv("runs/repeat/repeat_0/predictions.csv")
    assert predictions["row"].tolist() == list(range(240))
    summary = json.loads(result.out)["test/accuracy"]
    for name, rows in predictions.groupby("fold"):
        assert (rows["label"] == rows["prediction"]).mean() == pytest.approx(summary["values"][name])
    assert 0.3 < summary["mean"] < 0.7  # a leak would give 1
    deviation = stats.tstd([*summary["values"].values()])
    run = "runs/repeat/repeat_0/fold_2/version_0"
    assert kindling("test", "--ckpt_path", run).code == 0
    assert kindling("fit", "--ckpt_path", run, "--trainer.max_epochs", 6).code == 0
    assert {*pd.read_csv(f"{run}/predictions.csv")["row"]} == {*predictions["row"][predictions["fold"] == "fold_2"]}
    half = stats.t.ppf(0.975, 2) * deviation * (1 / 3 + 1 / 2) ** 0.5  # Nadeau and Bengio: test rows / training rows
    assert summary["high"] - summary["mean"] == pytest.approx(half)


def test_a_fold_with_all_rows_of_a_class_is_named() -> None:
    write_noise()
    frame = pd.read_csv("noise.csv")
    frame.loc[14:21, ["shop", "class"]] = "shop 7", "rare"
    frame.to_csv("noise.csv", index=False)
    messages = []
    for fold in range(1, 5):
        try:
            TableDataModule("noise.csv", "class", fold=f"{fold}/4", groups="shop").splits  # noqa: B018
        except ValueError as error:
            messages.append(f"{fold}: {error}")
    assert len(messages) == 1
    assert "tests on all rows of a class (that of row 14, counted from 0), so that none" in messages[0]


def test_numbers_are_split_into_many_folds() -> None:
    frame = pd.DataFrame({"x": range(60), "y": np.random.default_rng(0).normal(size=60).round(3)})
    frame.to_csv("numbers.csv", index=False)
    tested = [TableDataModule("numbers.csv", "y", fold=f"{fold}/30").splits == "test" for fold in range(1, 31)]
    assert np.sum(tested, axis=0).tolist() == [1] * 60


def make_repeat(name: str, accuracies: list[float], members: dict[str, list[str]] | None = None) -> None:
    """Write a repeat as the command leaves it, without a training."""
    folders = members or {f"seed_{seed}": [f"--seed_everything={seed}"] for seed in range(len(accuracies))}
    for folder, accuracy in zip(folders, accuracies, strict=True):
        run = make_run(f"runs/{name}/{folder}/version_0", "2026-01-01T00:00:00+00:00")
        (run / "test_metrics.json").write_text(json.dumps({"test/accuracy": accuracy}))
        if folder.startswith("fold_"):
            (run / "split.csv").write_text(f"row,split\n{folder[5:]},test\n")
    Path(f"runs/{name}/repeat.json").write_text(json.dumps({"command": [], "members": folders, "digest": ""}))


FOLDS = {f"fold_{fold}": [f"--data.fold={fold}/3"] for fold in (1, 2, 3)}


@pytest.mark.parametrize(
    ("theirs", "members", "verdict"),
    [
        ([0.95, 0.96, 0.94], None, "runs/b is higher by 0.0500"),
        ([0.85, 0.86, 0.84], None, "runs/b is lower by 0.0500"),
        ([0.90, 0.91, 0.89], None, "equal in all pairs"),
        (
            [0.92, 0.92, 0.88],
            None,
            "no significant difference; to detect one of this size, about 23 runs of each are needed",
        ),
        ([0.92, 0.92, 0.88], FOLDS, "no significant difference"),
    ],
)
def test_the_comparison_says_whether_the_data_supports_a_difference(
    kindling: Command, theirs: list[float], members: dict[str, list[str]] | None, verdict: str
) -> None:
    make_repeat("a", [0.90, 0.91, 0.89], members)
    make_repeat("b", theirs, members)
    result = kindling("runs", "compare", "a", "runs/b")
    assert (result.code, result.err) == (0, "")
    assert f"test/accuracy: {verdict}\n" in result.out
    assert f"{np.mean(theirs) - 0.9:.4f}" in result.out


def test_repeats_of_other_folds_or_other_test_rows_are_not_paired(kindling: Command) -> None:
    make_repeat("a", [0.90, 0.91, 0.89], FOLDS)
    make_repeat("b", [0.90, 0.91, 0.89], {f"fold_{fold}": [f"--data.fold={fold}/4"] for fold in (1, 2, 3)})
    make_repeat("c", [0.90, 0.91, 0.89], FOLDS)
    Path("runs/c/fold_2/version_0/split.csv").write_text("row,split\n7,test\n")
    result = kindling("runs", "compare", "a", "b")
    assert result.code == 1
    assert "can't be paired: fold_" in result.err
    result = kindling("runs", "compare", "a", "c")
    assert (result.code, "were tested on different samples" in result.err) == (1, True)


def test_another_recipe_or_table_under_the_same_name_is_another_repeat() -> None:
    Path("recipe.yaml").write_text("data: {init_args: {path: table.csv}}")
    Path("table.csv").write_text("a,b")
    digests = set()
    for text in ("a,b", "a,c"):
        Path("table.csv").write_text(text)
        digests.add(digest_files(["--config=recipe.yaml"], [{"data": {"init_args": {"path": "table.csv"}}}]))
    Path("recipe.yaml").write_text("data: {init_args: {path: table.csv}} # other")
    digests.add(digest_files(["--config=recipe.yaml"], []))
    assert len(digests) == 3
    opened = [Repeat.open("q", [], {"seed_1": [], "seed_2": []}, digest) for digest in ("x", "y", "x")]
    assert [repeat.path.name for repeat in opened] == ["repeat_0", "repeat_1", "repeat_0"]


@pytest.mark.usefixtures("folder")
def test_images_that_change_start_a_new_repeat() -> None:
    Path("photos/cat").mkdir(parents=True)
    digests = []
    for name in ("1.png", "2.png", "2.png"):
        Path("photos/cat", name).write_text(name)
        digests.append(digest_files(["--data.data_dir", "photos"], []))
    Path("runs/repeat").mkdir(parents=True)
    assert digest_files(["."], []) == digest_files([], [])  # the folder of runs changes by itself
    assert (len({*digests}), digests[1] == digests[2]) == (2, True)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "map", "average_precision", "roc_auc"])
def test_intervals_of_shares_end_at_0_and_1_and_those_of_losses_at_0(name: str) -> None:
    values = {f"test/{name}": {"fold_1": 1.0, "fold_2": 0.98}, "test/loss": {"fold_1": 0.0, "fold_2": 0.1}}
    found = summarize(values, 1.0)
    assert found[f"test/{name}"]["high"] == 1.0
    assert found["test/loss"]["low"] == 0
