import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from conftest import TINY, Command, different

RUN = Path("runs/tiny/version_0")
pytestmark = pytest.mark.usefixtures("shown_warnings")

LAUNCHERS = {  # environment variables of two processes, of which one has the rank RANK
    "torchrun": {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "RANK"},
    "srun": {"SLURM_NTASKS": "2", "SLURM_PROCID": "RANK"},
}


def seed(run: Path) -> int:
    stored: int = yaml.safe_load((run / "config.yaml").read_text())["seed_everything"]
    return stored


def test_a_seed_of_true_or_null_is_drawn_printed_and_stored(kindling: Command) -> None:
    Path("unseeded.yaml").write_text("seed_everything: null\n")
    options = (["--seed_everything", "true"], ["--config", "unseeded.yaml"])
    outs = [kindling("fit", *TINY, *option).out for option in options]
    runs = sorted(Path("runs/tiny").iterdir())
    assert seed(runs[0]) != seed(runs[1])
    for out, run in zip(outs, runs, strict=True):
        assert f"seed: {seed(run)}\n" in out
    assert different(*(run / "checkpoints/last.ckpt" for run in runs))
    kindling("fit", *TINY, "--seed_everything", seed(runs[1]))
    assert different(runs[1] / "checkpoints/last.ckpt", "runs/tiny/version_2/checkpoints/last.ckpt") == []
    assert "seed:" not in kindling("fit", "--ckpt_path", runs[0], "--trainer.max_epochs", "3").out
    assert seed(runs[0]) in map(int, [outs[0].split("seed: ")[1].split()[0]])


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_processes_of_a_launcher_do_not_draw_different_seeds(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, launcher: str, rank: str
) -> None:
    """All processes end, including rank 0, which alone reports the error."""
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, rank if value == "RANK" else value)
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", int(rank))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    result = kindling("fit", *TINY, "--seed_everything", "true")
    assert (result.code, result.err.count("\n")) == (2, int(rank == "0"))
    assert ("set a number" in result.err) == (rank == "0")


def test_nodes_of_one_run_do_not_draw_different_seeds(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    result = kindling("fit", *TINY, "--seed_everything", "true", "--trainer.num_nodes", "2")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "set a number" in result.err


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_only_rank_zero_reports_a_mistake(kindling: Command, monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, "1" if value == "RANK" else value)
    for command in (["fit", "--nonsense"], ["nonsense"], ["fit", "--config", "missing.yaml"]):
        result = kindling(*command)
        assert (result.code, result.err) == (2, "")


def test_a_mistake_in_a_process_of_another_one_is_written_for_that_one(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kindling.cli.lightning_cli.end_with_parent", lambda: None)
    for name, value in {"MASTER_PORT": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KINDLING_PARENT", str(os.getppid()))
    assert kindling("fit", "--nonsense").err.startswith("kindling: error: ")


def test_an_error_of_one_connected_process_is_reported(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHERS["torchrun"].items():
        monkeypatch.setenv(name, "1" if value == "RANK" else value)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    assert kindling("fit", "--nonsense").err.startswith("kindling: error: ")


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "..", ".", "a/../b", "a//b", "/", "", " ", "a\nb", "\x1b[31m", "a\\b", "x" * 300]
)
def test_a_run_stays_inside_runs(kindling: Command, folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    result = kindling("fit", *TINY, "--run_name", name)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--run_name" in result.err
    assert len(result.err) < 300
    assert result.err.strip().isprintable()
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["ünï cödé", "a/b", "lr=0.1, x:y", "100%", "-dash", "[b]"])
def test_other_names_are_folders_in_runs(kindling: Command, name: str) -> None:
    assert kindling("fit", *TINY, f"--run_name={name}", "--test_after_fit", "false").code == 0
    assert Path("runs", name, "version_0/checkpoints/best.ckpt").exists()
    assert kindling("test", "--ckpt_path", Path("runs", name)).code == 0


@pytest.mark.slow
def test_a_run_without_checkpoints_tests_its_last_weights(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--trainer.enable_checkpointing", "false")
    assert (result.code, result.err) == (0, "")
    assert "cannot be resumed" in result.out
    assert "--ckpt_path" not in result.out
    assert not list(Path("runs").rglob("*.ckpt"))
    kindling("fit", *TINY, "--trainer.limit_val_batches", "0")
    runs = sorted(Path("runs/tiny").iterdir())
    tested = [json.loads((run / "test_metrics.json").read_text()) for run in runs]
    assert tested[0] == tested[1]
    assert json.loads((runs[0] / "run.json").read_text())["status"] == "finished"


def test_barebones_trains_and_tests_without_files(kindling: Command, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = kindling("fit", *TINY, "--trainer.barebones", "true")
    assert (result.code, result.err) == (0, "")
    assert "test/accuracy" in result.out
    assert "epoch 1/2" not in result.out
    assert sorted(folder.rglob("*")) == before


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("option", "steps"),
    [
        ("overfit_batches 0.01", 2),
        ("overfit_batches 1", 2),
        ("overfit_batches 0.5", 6),
        ("limit_train_batches 0.0001", 2),
        ("limit_val_batches 0.0001", 14),
        ("limit_test_batches 0.0001", 14),
    ],
)
def test_a_fraction_of_the_batches_is_at_least_one(kindling: Command, option: str, steps: int) -> None:
    result = kindling("fit", *TINY, *f"--trainer.{option}".split())
    assert (result.code, result.err) == (0, "")
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == steps
    if "test" in option:
        assert len((RUN / "predictions.csv").read_text().splitlines()) == 1 + 60


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_fraction_is_at_least_one_batch_in_each_command(kindling: Command, command: str) -> None:
    kindling("fit", *TINY, "--test_after_fit", "false")
    stage = {"validate": "val"}.get(command, command)
    result = kindling(command, "--ckpt_path", "best", f"--trainer.limit_{stage}_batches", "0.001")
    assert (result.code, result.err) == (0, "")


@pytest.mark.quick_cases(8)
@pytest.mark.parametrize(
    "option",
    [
        "check_val_every_n_epoch 0",
        "val_check_interval 0",
        "val_check_interval 100",
        "accumulate_grad_batches 0",
        "gradient_clip_val -1",
        "gradient_clip_algorithm foo",
        "overfit_batches 1.5",
        "limit_train_batches -1",
        "max_epochs -2",
        "max_steps -2",
        "devices 0",
        "devices 99",
        "devices abc",
        "devices [0,1]",
        "accelerator tpu",
        "accelerator cuda",
        "accelerator xpu",
        "strategy nope",
        "precision 8",
        "profiler nope",
        "max_time abc",
        "log_every_n_steps -1",
    ],
)
def test_invalid_trainer_options_end_in_one_line(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: False)
    result = kindling("fit", *TINY, "--trainer.accelerator", "cpu", *f"--trainer.{option}".split())
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
    assert len(result.err) < 400
    assert " object at 0x" not in result.err
    assert f"trainer.{option.split()[0]}" in result.err
    assert "KINDLING_DEBUG" not in result.err  # it would be the text of Lightning
    assert not Path("runs").exists()


@pytest.mark.parametrize("schedule", ["torch.optim.lr_scheduler.ReduceLROnPlateau", "helpers.HalveOnPlateau"])
def test_a_schedule_that_needs_validation_says_once_that_it_has_no_effect(kindling: Command, schedule: str) -> None:
    result = kindling("fit", *TINY, "--model.lr_scheduler", schedule, "--trainer.limit_val_batches", "0")
    assert (result.code, result.err) == (0, "")
    name = schedule.rpartition(".")[2]
    assert result.out.count(f"{name} monitors val/loss: without validation") == 1


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    "option",
    [
        "num_sanity_val_steps 2",
        "min_epochs 3",
        "val_check_interval 0.001",
        "check_val_every_n_epoch null --trainer.val_check_interval 5",
        "reload_dataloaders_every_n_epochs 1",
        "precision bf16",
        "precision 16",
        "precision 64",
        "accumulate_grad_batches 100",
        "enable_model_summary true --trainer.precision bf16-mixed",
        "max_epochs null --trainer.max_steps 5",
        "enable_checkpointing true",
    ],
)
def test_trainer_flags_work_without_messages_of_libraries(kindling: Command, option: str) -> None:
    result = kindling("fit", *TINY, *f"--trainer.{option}".split())
    assert (result.code, result.err) == (0, "")
    assert "test/loss" in result.out
