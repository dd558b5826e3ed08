import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from conftest import TINY, Command, Train, different
from kindling import MLPClassifier, SyntheticDataModule
from kindling.runs.metadata import RunMetadata
from kindling.training.moved_checkpoints import keep_previous

# Dropout and shuffling draw random numbers, and the plateau scheduler has a state; 7 steps per epoch.
LONG = [*TINY, "--model.dropout", "0.3", "--trainer.max_epochs", "4"]
PLATEAU = [
    *("--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
    *("--model.lr_scheduler.patience", "0", "--model.lr_scheduler.threshold", "10"),
    *("--model.lr_scheduler.threshold_mode", "abs", "--model.optimizer.lr", "0.01"),
]
ONE_CYCLE = ["--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", "0.01"]
CYCLIC = ["--model.lr_scheduler", "CyclicLR", "--model.lr_scheduler.base_lr", "0.001"]
CYCLIC += ["--model.lr_scheduler.max_lr", "0.1", "--model.lr_scheduler.step_size_up", "5"]
CYCLIC += ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--model.optimizer.momentum", "0.9"]
RUN = Path("runs/tiny/version_0")
LAST = RUN / "checkpoints/last.ckpt"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stop_with(name: str, step: int) -> list[str]:
    return ["--trainer.callbacks", json.dumps([{"class_path": f"helpers.{name}", "init_args": {"step": step}}])]


SCHEDULES = {"constant": [], "plateau": PLATEAU, "one-cycle": ONE_CYCLE, "cyclic": CYCLIC}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_an_interrupted_run_resumes_to_identical_weights(
    kindling: Command, trained: Train, schedule: list[str]
) -> None:
    trained(*LONG, *schedule)
    # In the first step, in the last of an epoch, and in the middle of one.
    for number, step in enumerate((0, 13, 16), start=1):
        stopped = kindling("fit", *LONG, *schedule, *stop_with("SignalAt", step))
        assert stopped.code == 1
        run = Path(f"runs/tiny/version_{number}")
        assert f"fit --ckpt_path {run}" in stopped.out
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == step + 1
        resumed = kindling("fit", "--ckpt_path", "last", "--trainer.callbacks", "null")
        assert resumed.code == 0, resumed.err
        assert different(LAST, run / "checkpoints/last.ckpt") == []
        assert different(RUN / "checkpoints/best.ckpt", run / "checkpoints/best.ckpt") == []
        names = ("epoch", "step", "val/loss", "test/loss")
        figures = [[[row[name] for name in names] for row in rows(folder)] for folder in (run, RUN)]
        assert figures[0] == figures[1]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("schedule", [PLATEAU, ONE_CYCLE], ids=["plateau", "one-cycle"])
def test_a_crashed_run_resumes_from_its_last_epoch_to_identical_weights(
    kindling: Command, trained: Train, schedule: list[str]
) -> None:
    trained(*LONG, *schedule)
    with pytest.raises(RuntimeError, match="simulated crash"):
        kindling("fit", *LONG, *schedule, *stop_with("CrashAt", 17))
    run = Path("runs/tiny/version_1")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 14
    assert kindling("fit", "--ckpt_path", run, "--trainer.callbacks", "null").code == 0
    assert different(LAST, run / "checkpoints/last.ckpt") == []
    assert len(rows(run)) == len(rows(RUN))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("options", "step", "saved"),
    [
        (["--trainer.limit_train_batches", "5"], 9, 10),  # the last batch of a shortened epoch
        (["--trainer.limit_train_batches", "5"], 11, 12),
        (["--trainer.accumulate_grad_batches", "2"], 1, 2),
        (["--trainer.val_check_interval", "3"], 2, 3),  # after the validation that belongs to the third batch
        (["--trainer.max_steps", "25", "--trainer.max_epochs", "-1"], 10, 11),
        (["--trainer.precision", "64-true"], 10, 11),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else str(value),
)
def test_runs_with_other_epoch_and_step_lengths_resume_exactly(
    kindling: Command, options: list[str], step: int, saved: int
) -> None:
    assert kindling("fit", *LONG, *PLATEAU, *options).code == 0
    assert kindling("fit", *LONG, *PLATEAU, *options, *stop_with("SignalAt", step)).code == 1
    run = Path("runs/tiny/version_1")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == saved
    resumed = kindling("fit", "--ckpt_path", "last", "--trainer.callbacks", "null")
    assert resumed.code == 0, resumed.err
    assert different(LAST, run / "checkpoints/last.ckpt") == []


def test_a_killed_run_resumes_with_all_its_metrics(kindling: Command, trained: Train) -> None:
    trained(*LONG)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "kindling", "fit", *LONG, *stop_with("KillAt", 17)]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == -signal.SIGKILL
    run = Path("runs/tiny/version_1")
    assert len([row for row in rows(run) if row["val/loss"]]) == 2
    assert kindling("fit", "--ckpt_path", "last", "--trainer.callbacks", "null").code == 0
    assert different(LAST, run / "checkpoints/last.ckpt") == []
    assert len(rows(run)) == len(rows(RUN))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "other", [[], ["--data.batch_size", "16"], ["--model.optimizer.lr", "0.5"]], ids=["same", "batch_size", "lr"]
)
def test_the_best_checkpoint_stays_the_best_in_a_renamed_folder(kindling: Command, other: list[str]) -> None:
    # A learning rate this high makes the loss go up again.
    worse = ["--model.optimizer.lr", "0.3", "--trainer.max_epochs", "6", "--early_stopping.patience", "null"]
    kindling("fit", *TINY, *worse)
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["epoch"]
    assert best < 5
    RUN.parent.rename("runs/moved")
    moved = Path("runs/moved/version_0").resolve()
    assert kindling("fit", "--ckpt_path", moved, "--trainer.max_epochs", "7", *other).code == 0
    assert RunMetadata.read(moved).modified
    assert torch.load(moved / "checkpoints/best.ckpt", weights_only=True)["epoch"] == best


@pytest.mark.slow
def test_a_typed_patience_overrides_the_checkpoint(kindling: Command) -> None:
    still = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0", "--trainer.max_epochs", "3"]
    kindling("fit", *TINY, *still, "--early_stopping.patience", "9")
    kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "20", "--early_stopping.patience", "4")
    assert len([row for row in rows(RUN) if row["val/loss"]]) == 1 + 4


@pytest.mark.slow
def test_a_checkpoint_from_a_notebook_resumes_with_its_momentum_and_schedule(kindling: Command) -> None:
    data = SyntheticDataModule(num_samples=300, batch_size=32)
    model = MLPClassifier.for_data(
        data,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2),
    )
    trainer = Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, data)
    trainer.save_checkpoint("notebook.ckpt")
    result = kindling("fit", "--ckpt_path", "notebook.ckpt", "--trainer.max_epochs", "5", "--run_name", "tiny")
    assert result.code == 0, result.err
    stored = torch.load(LAST, weights_only=True)
    assert stored["optimizer_states"][0]["state"][0]["step"] == 5 * 7
    assert stored["lr_schedulers"][0]["last_epoch"] == 5
    assert stored["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-4)


@pytest.mark.slow
def test_a_checkpoint_without_the_start_of_its_schedule_assumes_step_zero(kindling: Command) -> None:
    kindling("fit", *LONG, "--model.warmup_epochs", "6")
    stored = torch.load(LAST, weights_only=True)
    del stored["schedule_start"]
    torch.save(stored, "other.ckpt")
    more = "--trainer.max_epochs 6 --trainer.log_every_n_steps 1 --run_name other"
    result = kindling("fit", "--ckpt_path", "other.ckpt", *more.split())
    assert result.code == 0, result.err
    rates = [float(row["lr"]) for row in rows(Path("runs/other/version_0")) if row["lr"]]
    assert rates == pytest.approx([1e-3 * (step + 1) / 42 for step in range(28, 42)], rel=1e-5)


def test_ctrl_c_in_the_last_step_keeps_the_run_and_skips_the_test(kindling: Command) -> None:
    result = kindling("fit", *LONG, *stop_with("SignalAt", 27))
    assert torch.load(LAST, weights_only=True)["global_step"] == 28
    kindling("fit", *LONG, "--test_after_fit", "false")
    for name in ("last", "best"):
        assert different(*(f"runs/tiny/version_{number}/checkpoints/{name}.ckpt" for number in (0, 1))) == []
    assert [row["val/loss"] for row in rows(RUN)] == [row["val/loss"] for row in rows(Path("runs/tiny/version_1"))]
    assert not (RUN / "test_metrics.json").exists()
    assert "kindling test --ckpt_path" in result.out


def test_the_plateau_scheduler_of_these_tests_lowers_the_rate(trained: Train) -> None:
    trained(*LONG, *PLATEAU)
    scheduler = torch.load(LAST, weights_only=True)["lr_schedulers"][0]
    assert scheduler["_last_lr"][0] < 0.01


def test_sigterm_stops_a_run_like_ctrl_c(kindling: Command) -> None:
    spec = [{"class_path": "helpers.SignalAt", "init_args": {"step": 3, "number": 15}}]
    assert kindling("fit", *LONG, "--trainer.callbacks", json.dumps(spec)).code == 143
    assert torch.load(LAST, weights_only=True)["global_step"] == 4


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_while_callbacks_are_set_up_leaves_nothing(kindling: Command, number: int) -> None:
    callbacks = [
        {"class_path": "helpers.SignalInSetup", "init_args": {"number": int(number)}},
        {"class_path": "OnExceptionCheckpoint", "init_args": {"dirpath": "saved"}},
    ]
    stopped = kindling("fit", *TINY, "--trainer.callbacks", json.dumps(callbacks))
    assert (stopped.code, stopped.err) == (1 if number == signal.SIGINT else 143, "kindling: interrupted\n")
    assert not Path("runs").exists()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_test_is_finished_by_resuming(kindling: Command, number: int) -> None:
    callback = {"class_path": "helpers.SignalInTest", "init_args": {"number": int(number)}}
    stopped = kindling("fit", *TINY, "--trainer.callbacks", json.dumps([callback]))
    assert (stopped.code, stopped.err) == (1 if number == signal.SIGINT else 143, "kindling: interrupted\n")
    assert not RunMetadata.read(RUN).tested
    assert signal.getsignal(number) == (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    shutil.copytree(RUN, "before")
    resumed = kindling("fit", "--ckpt_path", RUN, "--trainer.callbacks", "null")
    assert (resumed.code, resumed.err) == (0, "")
    assert RunMetadata.read(RUN).tested
    assert [
        different(f"before/checkpoints/{name}.ckpt", RUN / f"checkpoints/{name}.ckpt") for name in ("last", "best")
    ] == [[], []]
    assert [row["val/loss"] for row in rows(RUN)][:-1] == [row["val/loss"] for row in rows(Path("before"))]
    assert ("epoch 2/2" in stopped.out, "epoch 2/2" in resumed.out) == (True, False)


@pytest.mark.slow
def test_a_finished_run_can_be_trained_longer(kindling: Command, trained: Train) -> None:
    """A one-cycle schedule ends with its run: resuming starts a new one over the added steps."""
    trained(*LONG, *ONE_CYCLE)
    longer = kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", "6", "--trainer.log_every_n_steps", "1")
    assert longer.code == 0, longer.err
    steps = 2 * 7
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates = [float(row["lr"]) for row in rows(RUN) if row["lr"]][-steps:]
    assert rates == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_resuming_from_the_best_checkpoint_leaves_its_run_unchanged(kindling: Command, trained: Train) -> None:
    trained(*LONG)
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    assert kindling("fit", "--ckpt_path", RUN / "checkpoints/best.ckpt", "--trainer.max_epochs", "5").code == 0
    assert before == {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    assert Path("runs/tiny/version_1/checkpoints/last.ckpt").exists()


def test_a_learning_rate_on_the_command_line_overrides_the_checkpoint(kindling: Command, trained: Train) -> None:
    trained(*LONG)
    result = kindling("fit", "--ckpt_path", "last", "--model.optimizer.lr", "1e-4", "--trainer.max_epochs", "5")
    assert result.code == 0, result.err
    stored = torch.load(LAST, weights_only=True)
    assert stored["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-4
    assert stored["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 1e-4
    # Adam's moments are kept: its step count continues.
    assert stored["optimizer_states"][0]["state"][0]["step"] == 5 * 7


@pytest.mark.slow
def test_a_new_learning_rate_is_warmed_up_again(kindling: Command) -> None:
    kindling("fit", *LONG, "--model.warmup_epochs", "2")
    for more in ("--model.optimizer.lr 1e-4 --trainer.max_epochs 5", "--trainer.max_epochs 6"):
        options = [*more.split(), "--trainer.log_every_n_steps", "1"]
        assert kindling("fit", "--ckpt_path", "last", *options).code == 0
    rates = [float(row["lr"]) for row in rows(RUN) if row["lr"]][-14:]
    assert rates == pytest.approx([1e-4 * (step + 1) / 14 for step in range(14)], rel=1e-5)


@pytest.mark.slow
def test_one_cycle_peaks_at_the_learning_rate_of_the_optimizer(kindling: Command) -> None:
    """Typed or from an overlay; `--print_config` shows what the run uses."""
    one_cycle = [*LONG, "--model.lr_scheduler", "OneCycle", "--trainer.log_every_n_steps", "1"]

    def peak(number: int, since: int = 0) -> float:
        logged = rows(Path(f"runs/tiny/version_{number}"))
        return max(float(row["lr"]) for row in logged if row["lr"] and int(row["step"]) >= since)

    kindling("fit", *one_cycle, "--model.optimizer.lr", "0.01")
    assert peak(0) == pytest.approx(0.01, rel=0.02)
    kindling("fit", "--ckpt_path", "last", "--model.optimizer.lr", "1e-4", "--trainer.max_epochs", "6")
    assert peak(0, since=28) == pytest.approx(1e-4, rel=0.02)
    Path("rate.yaml").write_text("model: {init_args: {optimizer: {class_path: Adam, init_args: {lr: 0.02}}}}\n")
    kindling("fit", *one_cycle, "--config", "rate.yaml")
    assert peak(1) == pytest.approx(0.02, rel=0.02)
    shown = yaml.safe_load(kindling("fit", *one_cycle, "--model.optimizer.lr", "0.03", "--print_config").out)
    settings = shown["model"]["init_args"]
    assert settings["optimizer"]["init_args"]["lr"] == 0.03
    assert "max_lr" not in settings["lr_scheduler"]["init_args"]


@pytest.mark.slow
def test_a_typed_learning_rate_that_the_schedule_would_ignore_is_refused(kindling: Command) -> None:
    Path("peak.yaml").write_text(
        "model: {init_args: {lr_scheduler: {class_path: OneCycleLR, init_args: {max_lr: 0.01}}}}\n"
    )
    Path("rate.yaml").write_text("model: {init_args: {optimizer: {class_path: Adam, init_args: {lr: 0.02}}}}\n")
    assert kindling("fit", *LONG, "--config", "rate.yaml", "--config", "peak.yaml", "--print_config").code == 0
    names = "--model.optimizer.lr", "--model.optimizer.init_args.lr", "--model.init_args.optimizer.init_args.lr"
    for rate in (*((name, "0.5") for name in names), ("--config", "rate.yaml")):
        result = kindling("fit", *LONG, "--config", "peak.yaml", *rate)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "--model.optimizer.lr has no effect with OneCycleLR, whose max_lr is 0.01: add --model.lr" in result.err


@pytest.mark.slow
def test_a_run_that_was_never_trained_is_removed_and_not_evaluated(kindling: Command) -> None:
    with pytest.raises(RuntimeError, match="simulated crash"):
        kindling("fit", *LONG, *stop_with("CrashAt", 0))
    assert not Path("runs").exists()
    data = SyntheticDataModule(num_samples=300)
    trainer = Trainer(max_epochs=0, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(MLPClassifier.for_data(data), data)
    trainer.save_checkpoint("random.ckpt")
    result = kindling("test", "--ckpt_path", "random.ckpt")
    assert result.code == 1
    assert "random.ckpt has not been trained" in result.err


@pytest.mark.slow
def test_a_run_that_fails_to_resume_keeps_its_config(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    before = (RUN / "config.yaml").read_text()
    impossible = [*ONE_CYCLE, "--model.lr_scheduler.total_steps", "-3", "--trainer.max_epochs", "5"]
    result = kindling("fit", "--ckpt_path", "last", *impossible)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert (RUN / "config.yaml").read_text() == before
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3").code == 0
    assert "max_epochs: 3" in (RUN / "config.yaml").read_text()


def test_another_optimizer_starts_with_an_empty_state(kindling: Command, trained: Train) -> None:
    trained(*LONG)
    result = kindling("fit", "--ckpt_path", "last", "--model.optimizer", "SGD", "--trainer.max_epochs", "5")
    assert result.code == 0, result.err
    assert "exp_avg" not in str(torch.load(LAST, weights_only=True)["optimizer_states"][0]["state"])


def test_a_finished_run_prints_how_to_train_longer(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    result = kindling("fit", "--ckpt_path", "last")
    assert result.code == 1
    assert "2 epochs" in result.err
    assert "--trainer.max_epochs" in result.err


def test_the_last_checkpoint_stays_in_place_while_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)  # a file system without hard links
    last = Path("last.ckpt")
    last.write_text("weights")
    keep_previous(last)
    assert [path.read_text() for path in (last, Path("previous.ckpt"))] == ["weights"] * 2
    assert len(list(Path().glob(".*.*"))) == 0


def test_a_run_without_its_last_checkpoint_names_the_others(kindling: Command) -> None:
    kindling("fit", *TINY, "--test_after_fit", "false")
    Path("runs/tiny/version_0/checkpoints/last.ckpt").unlink()
    result = kindling("fit", "--ckpt_path", "runs/tiny", "--trainer.max_epochs", "5")
    assert (result.code, "choose another checkpoint, best.ckpt or previous.ckpt" in result.err) == (1, True)
