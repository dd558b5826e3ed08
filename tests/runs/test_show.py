import json
import shlex
import signal
from pathlib import Path

import pytest
import torch

from conftest import TINY, Command, Train, different
from kindling import MLPClassifier
from kindling.runs.metadata import RunMetadata, git_commit

RUN = Path("runs/tiny/version_0")


def repeat(kindling: Command, run: str | Path) -> Path:
    """Run the last command that `runs show` prints, and return the new run folder."""
    before = set(Path("runs").glob("*/*"))
    typed = shlex.split(kindling("runs", "show", run).out.splitlines()[-1])
    result = kindling(*typed[typed.index("fit") :])
    assert result.code == 0, result.err
    (made,) = set(Path("runs").glob("*/*")) - before
    return made


def test_the_last_command_repeats_the_run_to_the_same_weights(kindling: Command) -> None:
    schedule = ["--model.dropout", "0.3", "--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", "0.01"]
    assert kindling("fit", *TINY, *schedule, "--seed_everything", "true", "--profile").code == 0
    made = repeat(kindling, "tiny/version_0")
    assert made == RUN.with_name("version_1")
    for name in ("best", "last"):
        assert different(RUN / f"checkpoints/{name}.ckpt", made / f"checkpoints/{name}.ckpt") == []
    assert RunMetadata.read(made).recipe == "tiny"


def test_options_of_model_and_data_are_shown_if_they_are_auto(kindling: Command, trained: Train) -> None:
    trained(*TINY, "--data.batch_size", "auto")
    settings = kindling("runs", "show", RUN).out.partition("\nsettings ")[2].partition("\nfiles:")[0]
    shown = dict(line.split(maxsplit=1) for line in settings.splitlines()[1:] if line)
    assert shown["data.batch_size"] == "auto"
    assert not {"trainer.accelerator", "trainer.devices", "trainer.strategy"} & shown.keys()


@pytest.mark.slow
def test_a_run_that_started_from_another_is_repeated(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    start = RUN / "checkpoints/best.ckpt"
    assert kindling("fit", "--ckpt_path", start, "--run_name", "second", "--trainer.max_epochs", 4).code == 0
    made = repeat(kindling, "second")
    assert different("runs/second/version_0/checkpoints/last.ckpt", made / "checkpoints/last.ckpt") == []


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_a_run_on_a_table_is_repeated_with_its_split(kindling: Command) -> None:
    options = "--config configs/table_mlp.yaml --data.path customers.csv --data.target churned --trainer.max_epochs 2"
    assert kindling("fit", *options.split()).code == 0
    run = Path("runs/table_mlp/version_0")
    made = repeat(kindling, run)
    assert different(run / "checkpoints/last.ckpt", made / "checkpoints/last.ckpt") == []
    assert (run / "split.csv").read_text() == (made / "split.csv").read_text()


@pytest.mark.slow
def test_a_resumed_run_is_reproducible_unless_its_settings_changed(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt = lambda model, *_: signal.raise_signal(2) if model.global_step == 9 else None  # noqa: E731
        patch.setattr(MLPClassifier, "on_before_backward", interrupt)
        assert kindling("fit", *TINY).code == 1
    assert kindling("fit", "--ckpt_path", RUN).code == 0
    assert not RunMetadata.read(RUN).modified
    assert different(RUN / "checkpoints/last.ckpt", repeat(kindling, RUN) / "checkpoints/last.ckpt") == []
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", 3).code == 0
    *_, why, first, second, third = kindling("runs", "show", RUN).out.splitlines()
    assert "resumed with other settings" in why
    assert first.split()[:2] == second.split()[:2] == ["kindling", "fit"]
    assert third == f"  kindling fit --ckpt_path {RUN} --trainer.max_epochs 3"


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_the_run_is_described_with_obstacles_to_repeating_it(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--seed_everything", "false").code == 0
    stored = json.loads((RUN / "run.json").read_text())
    stored |= {"commit": "0123456789" * 4, "changed": True, "versions": {"torch": "1.0"}}
    (RUN / "run.json").write_text(json.dumps(stored))
    shown = kindling("runs", "show", RUN).out
    lines = [line.split() for line in shown.splitlines()]
    for line in (["status", "finished"], ["model.hidden", "[8]"], ["data.num_samples", "300"], ["epochs", "2/2"]):
        assert line in lines
    tested = json.loads((RUN / "test_metrics.json").read_text())
    assert ["test/f1", f"{tested['test/f1']:.4f}"] in lines
    assert [f"{RUN}/training_history.png"] in lines
    for words in ("the seed is unknown", "torch 1.0", "changes to commit 0123456", "git checkout 0123456789\n"):
        assert words in shown
    (RUN / "config.yaml").unlink()
    assert (
        "this run can't be reproduced: its config.yaml is missing" in kindling("runs", "show", RUN).out.splitlines()[-1]
    )


def test_the_command_sets_the_number_of_threads_of_the_run(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    threads = torch.get_num_threads()
    assert RunMetadata.read(RUN).threads == [threads]
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    assert kindling("runs", "show", RUN).out.splitlines()[-1].split()[:2] == ["kindling", "fit"]
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads + 1))
    last = kindling("runs", "show", RUN).out.splitlines()[-1]
    assert last.split()[:3] == [f"OMP_NUM_THREADS={threads}", "kindling", "fit"]


@pytest.mark.slow
def test_a_resumed_run_shows_commit_and_threads_of_each_command(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kindling("fit", *TINY).code == 0
    stored = json.loads((RUN / "run.json").read_text())
    first, now = "a" * 40, git_commit()[0]
    (RUN / "run.json").write_text(json.dumps(stored | {"commit": first, "commits": [first], "threads": [7]}))
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", 3).code == 0
    record, threads = RunMetadata.read(RUN), torch.get_num_threads()
    assert (record.modified, record.commits, record.threads) == (True, [first, now], [7, threads])
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    lines = kindling("runs", "show", RUN).out.splitlines()
    shown = [line.split()[:3] for line in lines[lines.index(next(line for line in lines if "in order" in line)) + 1 :]]
    checkout = [["git", "checkout", now[:10]]] if now else []
    assert shown == [
        ["git", "checkout", first[:10]],
        ["OMP_NUM_THREADS=7", "kindling", "fit"],
        *checkout,
        ["kindling", "fit", "--ckpt_path"],
    ]
