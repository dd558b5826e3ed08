import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from conftest import TINY, Command
from kindling import MLPClassifier, SyntheticDataModule
from kindling.runs.history import read_history
from kindling.runs.metadata import RunMetadata, git_commit, status_of, utc_timestamp
from kindling.runs.run import _warn_of_format
from kindling.training import ExactResume, PlotTrainingHistory

RUN = Path("runs/tiny/version_0")


def stop_with(name: str, step: int) -> list[str]:
    return ["--trainer.callbacks", json.dumps([{"class_path": f"helpers.{name}", "init_args": {"step": step}}])]


@pytest.mark.slow
def test_a_run_records_its_metadata(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.max_epochs", 4, "--model.optimizer.lr", 0.1).code == 0
    record = RunMetadata.read(RUN)
    assert [shlex.split(typed)[: 2 + len(TINY)] for typed in record.commands] == [["kindling", "fit", *TINY]]
    assert (record.recipe, record.status, record.epochs, record.max_epochs) == ("tiny", "finished", 4, 4)
    history = read_history(RUN / "metrics.csv")
    losses = list(history["val/loss"].values())
    assert record.best_epoch == 1 + losses.index(min(losses))
    assert record.best["val/accuracy"] == pytest.approx(history["val/accuracy"][record.best_epoch - 1])
    assert 0 < (record.seconds or 0) < 60


@pytest.mark.slow
def test_the_best_epoch_is_that_of_the_best_checkpoint(kindling: Command) -> None:
    monitor = ["--checkpoint.monitor", "val/accuracy"]
    assert kindling("fit", *TINY, *monitor, "--trainer.max_epochs", 5).code == 0
    accuracies = list(read_history(RUN / "metrics.csv")["val/accuracy"].values())
    best = RunMetadata.read(RUN)
    assert best.best_epoch == 1 + accuracies.index(max(accuracies))
    (RUN / "run.json").unlink()
    assert RunMetadata.read(RUN).best == pytest.approx(best.best)  # an older run has it in its other files


@pytest.mark.slow
def test_a_training_metric_may_determine_the_best_epoch(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--checkpoint.monitor", "train/loss", "--trainer.max_epochs", 3).code == 0
    losses = list(read_history(RUN / "metrics.csv")["train/loss"].values())
    best = RunMetadata.read(RUN)
    assert best.best_epoch == 1 + losses.index(min(losses))
    assert best.best["train/loss"] == pytest.approx(min(losses))
    assert "val/loss" in best.best
    (RUN / "run.json").unlink()
    assert RunMetadata.read(RUN).best == pytest.approx(best.best)


@pytest.mark.slow
def test_a_run_has_the_status_running_during_training(kindling: Command) -> None:
    line = kindling("fit", *TINY, *stop_with("ListRunsAt", 9)).out.split("runs/tiny/version_0 ")[1].splitlines()[0]
    assert "running" in line.split()
    assert "1/2" in line.split()


def test_an_interrupted_run_is_stopped_and_then_finished(kindling: Command) -> None:
    assert kindling("fit", *TINY, *stop_with("SignalAt", 9)).code == 1
    stopped = RunMetadata.read(RUN)
    assert (stopped.status, stopped.epochs) == ("stopped", 1)
    assert kindling("fit", "--ckpt_path", "last", "--trainer.callbacks", "null").code == 0
    finished = RunMetadata.read(RUN)
    assert (finished.status, finished.epochs, finished.started) == ("finished", 2, stopped.started)
    assert finished.commands[1:] == ["kindling fit --ckpt_path last --trainer.callbacks null"]
    assert (finished.seconds or 0) > (stopped.seconds or 0)


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_a_crashed_run_has_failed(kindling: Command) -> None:
    with pytest.raises(RuntimeError, match="simulated crash"):
        kindling("fit", *TINY, *stop_with("CrashAt", 9))
    assert RunMetadata.read(RUN).status == "failed"
    assert (RUN / "training_history.png").exists()


def test_a_run_that_fails_at_its_very_end_has_failed(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(ExactResume, "on_train_end", fill_disk)
    assert kindling("fit", *TINY).code == 1
    record = RunMetadata.read(RUN)
    assert (record.status, record.epochs) == ("failed", 2)


def test_a_run_stopped_early_is_finished(kindling: Command) -> None:
    options = ["--early_stopping.patience", "1", "--model.optimizer.lr", "0", "--trainer.max_epochs", "9"]
    assert kindling("fit", *TINY, *options).code == 0
    record = RunMetadata.read(RUN)
    assert (record.status, record.epochs, record.max_epochs, record.best_epoch) == ("finished", 2, 9, 1)


@pytest.mark.slow
def test_an_ensemble_has_metadata_too(kindling: Command) -> None:
    assert kindling("fit", *TINY).code == 0
    options = ["--data", "SyntheticDataModule", "--data.num_samples", "300", "--run_name", "both"]
    members = f"[{RUN}, {RUN}]"
    assert kindling("fit", "--model", "EnsembleClassifier", "--model.checkpoints", members, *options).code == 0
    both, one = RunMetadata.read(Path("runs/both/version_0")), RunMetadata.read(RUN)
    assert (both.status, both.epochs) == ("finished", None)
    assert both.best["val/loss"] == pytest.approx(one.best["val/loss"], rel=1e-3)


def test_a_run_is_running_only_while_its_process_is_alive() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    began, host = psutil.Process().create_time(), platform.node()
    long_ago = "2000-01-01T00:00:00+00:00"
    for pid, since, where, status in [
        (os.getpid(), began, host, "running"),
        (os.getpid(), began - 1000, host, "failed"),  # another process had that number
        (ended.pid, began, host, "failed"),
        (os.getpid(), began, "elsewhere", "failed"),  # the last heartbeat was years ago
        ("x", "y", host, "failed"),
    ]:
        process = {"pid": pid, "began": since, "host": where}
        assert status_of(RunMetadata(status="running", process=process, heartbeat=long_ago)) == status
    assert (
        status_of(RunMetadata(status="running", process={"host": "elsewhere"}, heartbeat=utc_timestamp())) == "running"
    )


def test_the_commit_is_that_of_the_working_directory(folder: Path) -> None:
    for command in ("init -q", "add configs", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *command.split()], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert git_commit() == (head, False)
    Path("configs/quickstart.yaml").write_text("changed")
    assert git_commit() == (head, True)


@pytest.mark.slow
def test_a_folder_outside_of_a_repository_has_no_commit(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_commit() == ("", False)
    stop = json.dumps({"class_path": "helpers.SignalAt", "init_args": {"step": 3}})
    assert kindling("fit", *TINY, "--test_after_fit", "false", "--trainer.callbacks", stop).code == 1
    run = Path("runs/tiny/version_0")
    record = json.loads((run / "run.json").read_text())
    assert (record["commit"], record["commits"], record["changed"]) == ("", [""], False)
    assert "commit " not in kindling("runs", "show", run).out
    (run / "run.json").write_text(json.dumps(record | {"commit": "a" * 40, "commits": ["a" * 40]}))  # of a repository
    monkeypatch.setattr("helpers.SignalAt.on_before_backward", lambda *_: None)
    assert kindling("fit", "--ckpt_path", run).code == 0
    assert not RunMetadata.read(run).modified  # it is unknown whether the code has changed


def test_it_works_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_commit() == ("", False)


@pytest.mark.usefixtures("pictures")
def test_in_a_notebook_the_plot_needs_no_arguments() -> None:
    data = SyntheticDataModule(num_samples=300)
    trainer = Trainer(
        max_epochs=2,
        logger=CSVLogger("runs"),
        callbacks=[PlotTrainingHistory()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(MLPClassifier.for_data(data, hidden=(8,)), data)
    assert Path("runs/lightning_logs/version_0/training_history.png").exists()


def test_two_processes_do_not_train_in_one_folder(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    record = RunMetadata.read(RUN)
    other = psutil.Process(os.getppid())  # the parent process is alive
    record.status = "running"
    record.process |= {"pid": other.pid, "began": other.create_time()}
    record.write(RUN)
    result = kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert result.code == 1
    assert f"{RUN} is still being trained (process {other.pid} on" in result.err
    assert kindling("test", "--ckpt_path", RUN).code == 0  # commands that only read the run still work


def test_a_run_of_a_later_format_is_read_with_a_warning_and_not_resumed(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    file = RUN / "run.json"
    later = json.loads(file.read_text()) | {"format": 2}
    for status in ("stopped", "finished"):
        file.write_text(written := json.dumps(later | {"status": status}))
        for checkpoint in ("last", RUN):
            result = kindling("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs", "3")
            assert result.code == 1
            assert f"{file} has format 2, not 1: update Kindling to resume the run" in result.err
            assert file.read_text() == written
    _warn_of_format.cache_clear()
    listed = kindling("runs")
    assert "tiny/version_0" in listed.out
    assert listed.err.count("has format 2, not 1: update Kindling to read it correctly\n") == 1


def test_a_failed_run_records_the_reason(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.callbacks", "helpers.NoSpaceLeft").code == 1
    shown = kindling("runs", "show", RUN).out
    assert "failed" in shown
    assert "No space left" in shown


@pytest.mark.slow
def test_a_loss_without_a_gradient_is_named(kindling: Command) -> None:
    options = "--model helpers.Detached --data SyntheticDataModule --data.num_samples 300".split()
    for trial in ([], ["--overfit"]):
        result = kindling("fit", *options, *trial)
        assert result.code == 1
        assert "no gradient reaches any weight" in result.err
        assert result.err.count("\n") == 1
