"""Copied, moved and linked runs, and runs killed after their last epoch."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import TINY, Command, Train
from kindling.runs.metadata import FILE, TEST, RunMetadata
from kindling.runs.metrics_csv import MetricsLogger
from kindling.runs.process import process_info
from kindling.training import TestOutputCollector
from kindling.training.moved_checkpoints import move_best

RUN = Path("runs/tiny/version_0")
# The loss increases again: the best checkpoint is not that of the last epoch, and later ones may be better.
WORSE = [*TINY, "--model.optimizer.lr", "0.3", "--trainer.max_epochs", "4", "--early_stopping.patience", "null"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def epoch_of(checkpoint: Path) -> int:
    epoch: int = torch.load(checkpoint, weights_only=True)["epoch"]
    return epoch


def copied(to: str) -> Path:
    return Path(shutil.copytree(RUN, to))


def linked(to: str) -> Path:
    copied("elsewhere/deep/copy")
    Path(to).symlink_to("elsewhere/deep/copy")
    return Path(to)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("make", "where"),
    [
        (copied, "mine"),
        (copied, "../{folder}/mine"),
        (copied, "{here}/mine"),
        (copied, "other runs/a b"),
        (linked, "mine"),
    ],
)
def test_a_copied_run_resumes_without_changing_the_original(
    kindling: Command, trained: Train, folder: Path, make: object, where: str
) -> None:
    trained(*WORSE)
    before, best = contents(RUN), epoch_of(RUN / "checkpoints/best.ckpt")
    name = where.format(folder=folder.name, here=folder)
    root = Path(name.split("/checkpoints")[0])
    copy = make(str(root))  # type: ignore[operator]
    result = kindling("fit", "--ckpt_path", name, "--trainer.max_epochs", "5")
    assert result.code == 0, result.err
    assert epoch_of(copy / "checkpoints/last.ckpt") == 5
    assert best < 3
    assert epoch_of(copy / "checkpoints/best.ckpt") == best
    assert len(rows_of(copy / "metrics.csv")) > len(rows_of(RUN / "metrics.csv"))
    assert len(RunMetadata.read(copy).commands) == 2
    assert contents(RUN) == before


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("inside", [".", "checkpoints"])
def test_a_run_resumes_from_within_its_folder(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    trained(*WORSE)
    copy = copied("mine").absolute()
    monkeypatch.chdir(copy / inside)
    where = "." if inside == "." else "last.ckpt"
    result = kindling("fit", "--ckpt_path", where, "--trainer.max_epochs", "5")
    assert result.code == 0, result.err
    assert epoch_of(copy / "checkpoints/last.ckpt") == 5
    assert (copy / "checkpoints/best.ckpt").exists()
    assert not list(copy.rglob("version_0"))


def test_a_link_to_a_last_checkpoint_resumes_its_run(kindling: Command, trained: Train) -> None:
    trained(*WORSE)
    Path("here.ckpt").symlink_to(RUN / "checkpoints/last.ckpt")
    assert kindling("fit", "--ckpt_path", "here.ckpt", "--trainer.max_epochs", "5").code == 0
    assert epoch_of(RUN / "checkpoints/last.ckpt") == 5


def test_a_copy_of_hard_links_leaves_the_original_unchanged(kindling: Command, trained: Train) -> None:
    trained(*WORSE)
    before = contents(RUN)
    shutil.copytree(RUN, "mine", copy_function=os.link)
    assert kindling("fit", "--ckpt_path", "mine", "--trainer.max_epochs", "5").code == 0
    assert contents(RUN) == before


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("inside", ["checkpoints", "mine/deep"])
def test_a_model_checkpoint_of_the_user_saves_inside_the_copy(kindling: Command, trained: Train, inside: str) -> None:
    folder = RUN / inside
    init_args = {"dirpath": str(folder), "monitor": "val/loss", "filename": "user", "enable_version_counter": False}
    callbacks = json.dumps([{"class_path": "ModelCheckpoint", "init_args": init_args}])
    trained(*TINY, "--trainer.callbacks", callbacks)
    before = contents(RUN)
    assert Path(folder, "user.ckpt") in before
    copied("mine")
    for command in (["--ckpt_path", "mine"], ["--config", RUN / "config.yaml", "--run_name", "again"]):
        result = kindling("fit", *command, "--trainer.max_epochs", "5", "--test_after_fit", "false")
        assert result.code == 0, result.err
        assert "ModelCheckpoint: " in result.err
        assert contents(RUN) == before
    for run in (Path("mine"), Path("runs/again/version_0")):
        assert epoch_of(run / inside / "user.ckpt") >= 2


@pytest.mark.slow
def test_a_copy_leaves_a_folder_outside_of_every_run_to_the_original(kindling: Command) -> None:
    shared = Path("shared")
    init_args = {"dirpath": str(shared), "monitor": "val/loss", "filename": "user", "enable_version_counter": False}
    callbacks = json.dumps([{"class_path": "ModelCheckpoint", "init_args": init_args}])
    assert kindling("fit", *TINY, "--trainer.callbacks", callbacks).code == 0
    copied("mine")
    before = contents(shared)
    assert [path.name for path in before] == ["user.ckpt"]
    more = "--test_after_fit false --model.optimizer.lr 0.01 --trainer.max_epochs".split()
    for epochs in (4, 5):
        result = kindling("fit", "--ckpt_path", "mine", *more, epochs)
        assert result.code == 0, result.err
        assert "shared belongs to the original of this run; saving to mine/user/shared" in result.err
        assert contents(shared) == before
        assert epoch_of(Path("mine/user/shared/user.ckpt")) == epochs - 1
    result = kindling("fit", "--ckpt_path", RUN, *more, 4)
    assert (result.code, "belongs to" in result.err) == (0, False)
    assert epoch_of(shared / "user.ckpt") == 3
    assert [path.name for path in contents(shared)] == ["user.ckpt"]


def test_a_copy_without_its_best_checkpoint_gets_one(kindling: Command, trained: Train) -> None:
    trained(*WORSE)
    copied("mine")
    Path("mine/checkpoints/best.ckpt").unlink()
    result = kindling("fit", "--ckpt_path", "mine", "--trainer.max_epochs", "6")
    assert result.code == 0, result.err
    best = epoch_of(Path("mine/checkpoints/best.ckpt")) + 1
    assert best > 4
    assert RunMetadata.read(Path("mine")).best_epoch == best


def test_a_new_run_keeps_the_files_of_the_run_it_starts_from() -> None:
    state = {"dirpath": "old", "best_model_path": "old/best.ckpt", "best_k_models": {"old/best.ckpt": 1.0}}
    move_best(state, "new", is_same_run=False)
    assert state["best_model_path"] == ""


@pytest.mark.slow
def test_a_copy_of_a_run_that_still_trains_resumes(kindling: Command, trained: Train) -> None:
    trained(*WORSE)
    running = json.loads((RUN / FILE).read_text()) | {"status": "running"}
    running["process"] = process_info(RUN) | {"pid": os.getppid(), "began": 0.0}
    running["process"] |= {"host": "elsewhere"}
    (RUN / FILE).write_text(json.dumps(running | {"heartbeat": RunMetadata.read(RUN).heartbeat}))
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", "5").code == 1
    copied("mine")
    assert kindling("fit", "--ckpt_path", "mine", "--trainer.max_epochs", "5").code == 0
    RUN.rename("moved")
    assert RunMetadata.read(Path("moved")).status == "running"


def killed(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the next command at a given function as if it were killed there."""

    def kill(*_: object, **__: object) -> None:
        raise SystemExit(9)

    monkeypatch.setattr(where, kill)


PLACES = [
    "kindling.training.output_collector.TestOutputCollector.on_train_end",
    "kindling.training.run_metadata_writer.RunMetadataWriter.on_fit_end",
    "kindling.cli.lightning_cli.KindlingCLI.test",
    "kindling.evaluation.result_files.write_predictions",
    "kindling.training.run_metadata_writer.RunMetadataWriter.mark_tested",
]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("place", "stop"), [*((place, "epochs") for place in PLACES), (PLACES[2], "early"), (PLACES[2], "steps")]
)
def test_a_run_killed_after_its_last_epoch_is_finished_by_resuming(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, place: str, stop: str
) -> None:
    options = {
        "epochs": TINY,
        "early": [*WORSE, "--early_stopping.patience", "1", "--trainer.max_epochs", "9"],
        "steps": [*TINY, "--trainer.max_steps", "9"],
    }[stop]
    with monkeypatch.context() as patch:
        killed(place, patch)
        patch.setattr("kindling.tensorboard.dashboard.Dashboard.on_train_end", TestOutputCollector.on_train_end)
        assert kindling("fit", *options).code == 9
    assert not RunMetadata.read(RUN).tested
    before = epoch_of(RUN / "checkpoints/last.ckpt"), (RUN / "checkpoints/best.ckpt").read_bytes()
    result = kindling("fit", "--ckpt_path", RUN)
    assert result.code == 0, result.err
    assert f"test split, {RUN}/checkpoints/best.ckpt" in result.out
    assert (epoch_of(RUN / "checkpoints/last.ckpt"), (RUN / "checkpoints/best.ckpt").read_bytes()) == before
    record = RunMetadata.read(RUN)
    assert (record.status, record.tested) == ("finished", True)
    assert all((RUN / name).exists() for name in (TEST, "predictions.csv"))
    rows = (RUN / "metrics.csv").read_text().splitlines()
    tests = [dict(zip(rows[0].split(","), row.split(","), strict=True))["test/loss"] for row in rows[1:]]
    assert [bool(value) for value in tests] == [False] * (len(tests) - 1) + [True]
    if stop == "epochs":
        again = kindling("fit", "--ckpt_path", RUN)
        assert (again.code, "was already trained for 2 epochs" in again.err) == (1, True)


def test_a_finished_run_of_an_older_version_is_complete(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    record = json.loads((RUN / FILE).read_text())
    del record["tested"]
    (RUN / FILE).write_text(json.dumps(record))
    assert "was already trained for 2 epochs" in kindling("fit", "--ckpt_path", RUN).err


def test_a_truncated_row_of_metrics_is_skipped(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    table = RUN / "metrics.csv"
    whole = table.read_text()
    header, *rows = whole.splitlines()
    step = header.split(",").index("step")
    cut = ",".join([*rows[-2].split(",")[:step], "1"])  # of a step 13
    table.write_text(whole + cut)
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", "3").code == 0
    assert cut not in table.read_text().splitlines()


def test_a_damaged_table_of_metrics_does_not_stop_a_run(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    table = RUN / "metrics.csv"
    first = table.read_text().splitlines()[1]
    for epochs, damaged in enumerate(
        (table.read_bytes()[:-60] + bytes(60) + b"\n1,2,3" + b",4" * 50 + b"\n", bytes(range(256)) * 3), start=3
    ):
        table.write_bytes(damaged)
        result = kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", epochs)
        assert result.code == 0, result.err
        assert re.fullmatch(rf"{table} is damaged: \d+ rows? (is|are) left out\n", result.err)
        assert len(rows_of(table)) > 1
        if epochs == 3:
            assert first in table.read_text()


def test_a_new_column_of_metrics_is_written_without_losing_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = MetricsLogger([], save_dir="runs", name="a", version="b")
    table = Path("runs/a/b/metrics.csv")
    logged: list[dict[str, Tensor | float]] = [{"loss": 1.0}, {"loss": 0.5}, {"loss": 0.25, "accuracy": 0.5}]
    for step, metrics in enumerate(logged):
        logger.log_metrics(metrics, step)
        if step == 2:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
                if (child := os.fork()) == 0:
                    logger.save()
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            assert table.read_text() == "loss,step\n1.0,0\n0.5,1\n"
        logger.save()
    assert rows_of(table) == [("", "1.0", "0"), ("", "0.5", "1"), ("0.5", "0.25", "2")]


def rows_of(table: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split(",")) for line in table.read_text().splitlines()[1:]]
