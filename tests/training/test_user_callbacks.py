"""Callbacks, loggers and profilers of Lightning, used together with those of Kindling."""

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import callbacks, loggers, profilers

from conftest import TINY, Command

RUN = Path("runs/tiny/version_0")
OFTEN = [*TINY, "--trainer.log_every_n_steps", "1"]
# Required arguments of a class.
NEEDED: dict[str, dict[str, Any]] = {
    "BatchSizeFinder": {"max_trials": 1},
    "DeviceStatsMonitor": {"cpu_stats": True},
    "EarlyStopping": {"monitor": "val/loss"},
    "GradientAccumulationScheduler": {"scheduling": {"0": 1, "1": 2}},
    "ModelCheckpoint": {"monitor": "val/loss"},
    "ModelPruning": {"pruning_fn": "l1_unstructured", "amount": 0.1},
    "OnExceptionCheckpoint": {"dirpath": "crashed"},
    "SpikeDetection": {"warmup": 100},
    "StochasticWeightAveraging": {"swa_lrs": 0.01},
    "ThroughputMonitor": {"batch_size_fn": "helpers.batch_size"},
    "Timer": {"duration": "00:01:00:00"},
    "CSVLogger": {"save_dir": "own"},
    "TensorBoardLogger": {"save_dir": "own"},
}
REFUSED = {
    "BackboneFinetuning": "unfreeze_epoch",
    "BaseFinetuning": "TransferClassifier",
    "LearningRateFinder": "--find_lr",
}
ELSEWHERE = {"CometLogger", "LitLogger", "Logger", "MLFlowLogger", "Profiler", "WandbLogger", "XLAProfiler"}
QUICK = {"CSVLogger", "ModelCheckpoint", "SimpleProfiler", "StochasticWeightAveraging"}  # in each run of the tests
CALLBACKS = sorted(set(callbacks.__all__) - set(REFUSED))
OTHERS = [*(("logger", name) for name in loggers.__all__), *(("profiler", name) for name in profilers.__all__)]


def added(kind: str, name: str, **init: Any) -> list[str]:
    """Return the option that adds a class of Lightning to the Trainer."""
    module = {"callbacks": callbacks, "logger": loggers, "profiler": profilers}[kind]
    spec = {"class_path": f"{module.__name__}.{name}", "init_args": NEEDED.get(name, {}) | init}
    return [f"--trainer.{kind}", json.dumps([spec] if kind == "callbacks" else spec)]


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint"])
def test_a_metric_that_no_one_logs_is_named_with_the_option(kindling: Command, name: str) -> None:
    result = kindling("fit", *TINY, *added("callbacks", name, monitor="val/los"))
    assert result.code == 1
    error = result.err.splitlines()[-1]
    option = f"kindling: error: --trainer.callbacks {name}: monitor val/los: no such metric is logged"
    assert error.startswith(f"{option}: did you mean val/loss? (logged so far: ")
    assert "train/loss" in error


def test_every_class_that_lightning_ships_is_tested() -> None:
    assert {"EMAWeightAveraging", "LearningRateMonitor", "Timer", "StochasticWeightAveraging"} <= set(CALLBACKS)
    assert len(CALLBACKS) > 20
    assert {"logger", "profiler"} == {kind for kind, name in OTHERS if name not in ELSEWHERE}
    assert all(inspect.isclass(getattr(callbacks, name)) for name in CALLBACKS)


@pytest.mark.quick_cases(1)
@pytest.mark.usefixtures("shown_warnings")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=[pytest.mark.slow] * (name not in QUICK))
        for kind, name in [*(("callbacks", name) for name in CALLBACKS), *OTHERS]
        if name not in ELSEWHERE
    ],
)
def test_classes_of_lightning_fit_resume_and_repeat(kindling: Command, kind: str, name: str) -> None:
    configs = []
    for arguments in (
        ["fit", *OFTEN, *added(kind, name)],
        ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"],  # rewrites config.yaml
    ):
        result = kindling(*arguments)
        assert result.code == 0, result.err
        assert result.err == "" or name == "PyTorchProfiler"  # whose C++ library writes to stderr
        configs.append(yaml.safe_load((RUN / "config.yaml").read_text()))
    assert configs[0]["trainer"][kind] == configs[1]["trainer"][kind]
    assert "serialize" not in str(configs)


@pytest.mark.parametrize("name", REFUSED)
def test_callbacks_that_cannot_work_here_are_refused_before_training(kindling: Command, name: str) -> None:
    result = kindling("fit", *TINY, *added("callbacks", name))
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert name in result.err
    assert REFUSED[name] in result.err
    assert not Path("runs").exists()


@pytest.mark.quick_cases(1)
@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", ["LearningRateMonitor", "DeviceStatsMonitor"])
def test_the_curves_are_drawn_where_rows_have_no_epoch(kindling: Command, name: str) -> None:
    assert kindling("fit", *OFTEN, *added("callbacks", name)).code == 0
    with (RUN / "metrics.csv").open(newline="") as file:
        assert any(not row["epoch"] for row in csv.DictReader(file))
    assert (RUN / "training_history.png").exists()
    assert (RUN / "test_metrics.json").exists()


def figures() -> list[str]:
    return [(RUN / name).read_text() for name in ("test_metrics.json", "predictions.csv")]


OWN = {  # each keeps another checkpoint than that with the lowest validation loss
    "worst": {"monitor": "val/loss", "mode": "max", "filename": "worst"},
    "link": {"monitor": "val/accuracy", "mode": "max", "save_last": "link"},
    "every step": {"every_n_train_steps": 1, "save_top_k": -1, "monitor": None},
    "elsewhere": {"dirpath": "elsewhere", "filename": "best", "save_last": True, "monitor": "val/loss", "mode": "max"},
}


@pytest.mark.quick_cases(1)
@pytest.mark.usefixtures("shown_warnings")
@pytest.mark.parametrize("own", OWN.values(), ids=OWN.keys())
def test_a_model_checkpoint_of_the_user_leaves_those_of_kindling_unchanged(
    kindling: Command, own: dict[str, Any]
) -> None:
    # With such a high learning rate, the loss increases again.
    worse = [*TINY, "--trainer.max_epochs", "4", "--model.optimizer.lr", "0.3"]
    result = kindling("fit", *worse, *added("callbacks", "ModelCheckpoint", **{"monitor": None} | own))
    assert (result.code, result.err) == (0, "")
    assert "checkpoints/best.ckpt" in result.out
    tested = figures()
    record = json.loads((RUN / "run.json").read_text())
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] + 1 == record["best"]["epoch"] < 4
    assert kindling("test", "--ckpt_path", RUN).code == 0
    assert figures() == tested
    files = [path for folder in (RUN / "checkpoints", Path("elsewhere")) for path in folder.glob("*.ckpt")]
    assert {"best.ckpt", "last.ckpt"} < {path.name for path in files} or "last" in str(own)
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", "5").code == 0
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["epoch"] == best["epoch"]


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_model_checkpoint_may_not_overwrite_those_of_kindling(kindling: Command, name: str) -> None:
    result = kindling("fit", *TINY, *added("callbacks", "ModelCheckpoint", filename=name))
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{name}.ckpt" in result.err
    assert not Path("runs").exists()


def test_the_same_callback_twice_is_refused_in_one_line(kindling: Command) -> None:
    twice = [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": n}} for n in (1, 2)]
    result = kindling("fit", *TINY, "--trainer.callbacks", json.dumps(twice))
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "EarlyStopping" in result.err


def test_early_stopping_of_the_user_prints_why_it_stopped(kindling: Command) -> None:
    still = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0", "--trainer.max_epochs", "9"]
    result = kindling("fit", *TINY, *still, *added("callbacks", "EarlyStopping", patience=1))
    assert "stopped early: Monitored metric val/loss did not improve" in result.out
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
