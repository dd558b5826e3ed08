"""Training with sharded weights, over gloo on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import TINY, Command, Train, weights
from kindling.training.sharding import units
from ranks import DEVICE, Ranks

STRATEGY = {"class_path": "kindling.training.sharding.ShardedStrategy", "init_args": {"min_parameters": 100}}
SHARDED = [*DEVICE, "--trainer.strategy", json.dumps(STRATEGY)]
FIT = [*TINY, *"--model.hidden [16,16] --model.optimizer SGD --model.optimizer.lr 0.1".split()]
FIT += "--model.optimizer.momentum 0.9 --model.batch_norm true --trainer.sync_batchnorm true".split()
FIT += "--data.eval_batch_size 16 --trainer.max_epochs 3 --trainer.gradient_clip_val 1".split()
RUN = Path("runs/tiny/version_0")


def check_weights(run: str, other: str) -> None:
    one, another = (weights(f"runs/{name}/version_0/checkpoints/last.ckpt") for name in (run, other))
    assert one.keys() == another.keys()
    for name, value in one.items():
        assert type(another[name]) is torch.Tensor
        torch.testing.assert_close(another[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones_and_give_ordinary_checkpoints(kindling: Command, trained: Train) -> None:
    trained(*FIT)
    Path("runs/tiny").rename("runs/one")
    results = Ranks("fit", *FIT, options=SHARDED).wait()
    assert [(result.code, result.err) for result in results] == [(0, "")] * 2, results[0].err
    check_weights("one", "tiny")
    figures = [json.loads(Path(f"runs/{run}/version_0/test_metrics.json").read_text()) for run in ("one", "tiny")]
    assert figures[1] == pytest.approx(figures[0], abs=1e-5)
    assert kindling("test", "--ckpt_path", RUN).code == 0
    assert json.loads((RUN / "test_metrics.json").read_text()) == pytest.approx(figures[0], abs=1e-5)
    assert kindling("export", "--ckpt_path", RUN, "--format", "torch_export").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("first", ["sharded", "whole"])
def test_a_run_resumes_with_another_strategy(kindling: Command, trained: Train, first: str) -> None:
    trained(*FIT)
    Path("runs/tiny").rename("runs/one")
    stop = ["--trainer.callbacks", '[{"class_path": "helpers.SignalAt", "init_args": {"step": 9, "number": 15}}]']
    resume = ["fit", "--ckpt_path", "last", "--trainer.callbacks", "null"]
    auto = ["--trainer.strategy", "auto", "--trainer.devices", "1"]
    if first == "sharded":
        assert [result.code for result in Ranks("fit", *FIT, *stop, options=SHARDED).wait()] == [143, 143]
        resumed = kindling(*resume, *auto)
        assert (resumed.code, resumed.err) == (0, "")
    else:
        assert kindling("fit", *FIT, *stop).code == 143
        results = Ranks(*resume, options=SHARDED).wait()
        assert [(result.code, result.err) for result in results] == [(0, "")] * 2, results[0].err
    check_weights("one", "tiny")


def test_large_parts_of_a_model_are_units() -> None:
    first, inner, last = nn.Linear(10, 10), nn.Sequential(nn.Linear(2, 2), nn.Linear(10, 9)), nn.Linear(10, 2)
    network = nn.Sequential(first, inner, last)
    model = nn.ModuleDict({"network": network, "empty": nn.ReLU()})
    assert list(units(model, 99)) == [first, inner[1], network]
    assert list(units(model, 105)) == [first, inner, network]
    assert list(units(model, 1000)) == [network]


@pytest.mark.slow
def test_what_sharded_weights_cannot_do_is_refused() -> None:
    results = Ranks("fit", *FIT, "--averaging", "EMA", options=SHARDED).wait()
    assert [result.code for result in results] == [1, 1]
    assert results[0].err == (
        "kindling: error: sharded weights can't be averaged: use --trainer.strategy ddp, or remove --averaging\n"
    )
    assert not Path("runs").exists()
