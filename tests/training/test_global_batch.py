"""Training with several processes equals training with one, as `--data.batch_size` counts the samples of all."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from conftest import TINY, Command, Train, weights
from ranks import DEVICE, Ranks

# 216 training samples. Plain SGD does not amplify differences of rounding.
SGD = [*TINY, *"--model.optimizer SGD --model.optimizer.lr 0.1 --trainer.log_every_n_steps 1".split()]
NORM = "--model.batch_norm true --trainer.sync_batchnorm true".split()
RECORDED = ["--trainer.callbacks", '[{"class_path": "helpers.ShareRecorder"}]']


def last(run: str) -> Path:
    return Path(f"runs/{run}/version_0/checkpoints/last.ckpt")


def check_equal(run: str, other: str, tolerance: float = 1e-6) -> None:
    """Check that weights, metrics and predictions of two runs are equal apart from rounding."""
    one, several = weights(last(run)), weights(last(other))
    assert one.keys() == several.keys()
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=tolerance)
    rows = []
    for folder in (run, other):
        with Path(f"runs/{folder}/version_0/metrics.csv").open(newline="") as file:
            rows.append(list(csv.DictReader(file)))
    for ours, theirs in zip(*rows, strict=True):
        for name in ours.keys() - {"samples_per_second", "memory_gb"}:
            assert float(theirs[name] or 0) == pytest.approx(float(ours[name] or 0), abs=1e-4), name
    texts = [Path(f"runs/{folder}/version_0/test_metrics.json").read_text() for folder in (run, other)]
    assert json.loads(texts[1]) == pytest.approx(json.loads(texts[0]), abs=1e-5)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("options", "processes"),
    [
        (["--data.batch_size", "64"], 3),  # 22, 21 and 21 samples; the last batch has 24
        (["--data.batch_size", "26", *NORM], 2),  # the last batch has 8
        (["--data.batch_size", "53"], 4),  # the last batch has 4
        (["--data.batch_size", "107"], 4),  # the last batch has 2, so that two processes have none
        (["--data.batch_size", "107", *NORM], 4),
        (["--data.batch_size", "43"], 2),  # the last batch would have 1
        (["--data.batch_size", "40", "--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "1"], 3),
        (["--model.weighted_loss", "true", "--model.label_smoothing", "0.1", "--data.batch_size", "53"], 2),
        (["--model.loss_function", "focal", *NORM], 2),
        (["--averaging", "EMA", "--averaging.decay", "0.9", *NORM], 2),
        (["--model.optimizer", "Adam", "--model.optimizer.lr", "0.01", "--trainer.precision", "64-true", *NORM], 4),
    ],
    ids="uneven batch_norm one_each fewer fewer_norm single accumulation weights focal ema adam".split(),
)
def test_several_processes_reach_the_weights_of_one(trained: Train, options: list[str], processes: int) -> None:
    trained(*SGD, *options)
    Path("runs/tiny").rename("runs/one")
    results = Ranks("fit", *SGD, *options, *RECORDED, world_size=processes).wait()
    assert [result.code for result in results] == [0] * processes, results[0].err
    check_equal("one", "tiny")
    assert {result.out + result.err for result in results[1:]} == {""}
    if options == ["--data.batch_size", "64"]:
        check_shares([[22, 22, 22, 8], [21, 21, 21, 8], [21, 21, 21, 8]])


def check_shares(sizes: list[list[int]]) -> None:
    """Check the sizes of the batches of each process in an epoch, that each sample is seen once, and the random state.

    Args:
        sizes: By process and batch.
    """
    files = [Path(f"shares{rank}.txt").read_text().splitlines() for rank in range(len(sizes))]
    steps = [[line.split() for line in lines] for lines in files]
    assert [[len(values) - 1 for values in rank] for rank in steps] == [2 * batches for batches in sizes]  # two epochs
    for epoch in range(2):
        seen = [value for rank in steps for values in rank[4 * epoch : 4 * epoch + 4] for value in values[:-1]]
        assert len(set(seen)) == len(seen) == 216
    assert len({values[-1] for rank in steps for values in rank[:1]}) == len(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [[], NORM], ids=["plain", "batch_norm"])
def test_a_run_stopped_with_two_processes_resumes_with_four_as_with_one(trained: Train, norm: list[str]) -> None:
    options = [*SGD, "--trainer.max_epochs", "3", *norm]
    trained(*options)
    Path("runs/tiny").rename("runs/one")
    stop = ["--trainer.callbacks", '[{"class_path": "helpers.SignalAt", "init_args": {"step": 9, "number": 15}}]']
    assert [result.code for result in Ranks("fit", *options, *stop).wait()] == [143, 143]
    assert torch.load(last("tiny"), weights_only=True)["global_step"] == 10
    results = Ranks("fit", "--ckpt_path", "last", "--trainer.callbacks", "null", world_size=4).wait()
    assert [(result.code, result.err) for result in results] == [(0, "")] * 4, results[0].err
    check_equal("one", "tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.batch_size", "2"], "--data.batch_size 2 is too small for 3 processes: it counts the samples of one"),
        (
            ["--data.batch_size", "5", "--model.batch_norm", "true"],
            "batch norm (network.2) needs at least 2 samples in each training batch of each process: --data.batch_size "
            "5 is too small for 3 of them: use at least 6, or --trainer.sync_batchnorm true",
        ),
    ],
    ids=["empty", "batch_norm"],
)
@pytest.mark.slow
def test_batches_that_are_too_small_for_the_processes_are_refused(options: list[str], message: str) -> None:
    results = Ranks("fit", *TINY, *options, world_size=3).wait()
    assert [result.code for result in results] == [1] * 3
    assert message in results[0].err
    assert [result.err.count("\n") for result in results] == [1, 0, 0]
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "size"), [(300, 16), (302, 7), (10, 1024), (2000, 64)])
def test_predictions_of_several_processes_have_the_order_of_one(
    kindling: Command, trained: Train, samples: int, size: int
) -> None:
    options = {10: "--data.num_classes 2 --data.val_split 2", 2000: "--data.num_classes 210"}.get(samples, "")
    trained(*TINY, "--data.num_samples", samples, *options.split())
    predict = ["predict", "--ckpt_path", "last", "--data.eval_batch_size", size]
    assert kindling(*predict).code == 0
    file = Path("runs/tiny/version_0/predictions.csv")
    expected = file.read_text()
    file.unlink()
    results = Ranks(*predict, world_size=3).wait()
    assert [(result.code, result.err) for result in results] == [(0, "")] * 3
    assert [result.out == "" for result in results] == [False, True, True]
    with file.open(newline="") as csv_file:
        rows = list(csv.reader(csv_file))
    for row, other in zip(rows, csv.reader(expected.splitlines()), strict=True):
        assert row[:2] == other[:2]
        assert row[2:] == other[2:] or [float(value) for value in row[2:]] == pytest.approx(
            [float(value) for value in other[2:]], abs=1e-5
        )


@pytest.mark.slow
def test_any_module_trains_on_shares_of_our_data(kindling: Command) -> None:
    options = (
        "fit --model modules.Rows --data SyntheticDataModule --data.num_samples 300 --trainer.max_epochs 2".split()
    )
    options += ["--data.batch_size", "53", "--test_after_fit", "false"]
    assert kindling(*options, "--run_name", "one").code == 0
    results = Ranks(*options, "--run_name", "three", world_size=3).wait()
    assert [result.code for result in results] == [0] * 3, results[0].err
    one, three = weights(last("one")), weights(last("three"))
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "strategy"),
    [
        ("LanguageModel", "TextDataModule", "ddp"),
        ("Segmentation --model.num_classes 2", "ShapesDataModule", "ddp"),
        ("GAN", "PointsDataModule", "ddp_find_unused_parameters_true"),
        ("GAN", "OwnPointsDataModule", "ddp_find_unused_parameters_true"),
    ],
)
def test_any_data_module_and_manual_optimization_work(model: str, data: str, strategy: str) -> None:
    options = f"fit --model modules.{model} --data modules.{data} --trainer.max_epochs 2 --run_name any".split()
    results = Ranks(*options, options=[*DEVICE, "--trainer.strategy", strategy]).wait()
    assert [result.code for result in results] == [0, 0], results[0].err
    assert Path("runs/any/version_0/checkpoints/last.ckpt").exists()


def test_the_first_line_names_the_processes_and_batch_norm_of_each_alone() -> None:
    short = "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.logger false --test_after_fit false"
    results = Ranks("fit", *TINY, "--model.batch_norm", "true", *short.split()).wait()
    first, second, *_ = results[0].out.splitlines()
    assert re.fullmatch(r"MLPClassifier, [\d,]+ parameters, 2 processes: runs/tiny/version_0", first)
    assert second.startswith("each process computes its batch norm statistics from its own part of the batch; add")
    assert results[1].out == ""
