import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler

from conftest import TINY, Command, Train, differences
from helpers import SampleRecorder
from kindling.data.datasets import ArrayDataset, SeededDataset
from kindling.data.samplers import EpochSampler, Share, TrainingBatches
from ranks import Ranks

# 216 training samples in 7 batches. Dropout draws random numbers, and the plateau scheduler has a state.
LONG = [*TINY, "--model.dropout", "0.3", "--trainer.max_epochs", "3", "--test_after_fit", "false"]
PLATEAU = (
    "--model.lr_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau --model.lr_scheduler.patience 0 "
    "--model.lr_scheduler.threshold 10 --model.lr_scheduler.threshold_mode abs --model.optimizer.lr 0.01"
).split()
ONE_CYCLE = "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.01".split()
WITHIN = "--trainer.val_check_interval 2 --trainer.accumulate_grad_batches 2".split()
FIRST, SECOND, THIRD = (Path(f"runs/tiny/version_{number}") for number in range(3))


def callbacks(*specs: tuple[str, dict[str, int]]) -> list[str]:
    spec = [{"class_path": f"helpers.{name}", "init_args": arguments} for name, arguments in specs]
    return ["--trainer.callbacks", json.dumps(spec)]


def state_of(run: Path, name: str = "last") -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    return checkpoint


def position_in(run: Path, name: str = "last") -> dict[str, int]:
    position: dict[str, int] = state_of(run, name)["callbacks"]["ExactResume"]["position"]
    return position


def metric_rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without speed and memory."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: value for name, value in row.items() if name not in ("samples_per_second", "memory_gb")} for row in rows
    ]


def check_same(*names: str) -> None:
    for name in names:
        assert differences(*(run / f"checkpoints/{name}.ckpt" for run in (FIRST, SECOND))) == []
    assert metric_rows(FIRST) == metric_rows(SECOND)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("options", "first", "then", "step"),
    [
        (PLATEAU, ["--trainer.max_steps", "10"], ["--trainer.max_steps", "-1"], 10),
        ([], ["--trainer.max_steps", "2"], ["--trainer.max_steps", "-1"], 2),  # before the first validation
        (ONE_CYCLE, callbacks(("StopAt", {"step": 11})), [], 12),
        (PLATEAU, callbacks(("SignalAt", {"step": 11})), [], 12),
        ([*PLATEAU, *WITHIN], callbacks(("SignalAt", {"step": 5})), [], 6),  # each step ends with a validation
        ([*PLATEAU, *WITHIN], callbacks(("StopAt", {"step": 5})), [], 6),
        ([*PLATEAU, *WITHIN], ["--trainer.max_steps", "5"], ["--trainer.max_steps", "-1"], 5),
        ([*PLATEAU, "--checkpoint.every_n_steps", "2"], callbacks(("CrashAt", {"step": 13})), [], 12),
        (PLATEAU, callbacks(("CrashAt", {"step": 13})), [], 7),
        (["--data.num_workers", "1"], callbacks(("SignalAt", {"step": 2})), [], 3),
    ],
    ids=["max_steps", "first_epoch", "should_stop", "signal", *["within"] * 3, "crash", "epoch_start", "workers"],
)
def test_a_run_stopped_anywhere_resumes_to_identical_checkpoints_and_metrics(
    kindling: Command, trained: Train, options: list[str], first: list[str], then: list[str], step: int
) -> None:
    trained(*LONG, *options)
    if "CrashAt" in str(first):
        with pytest.raises(RuntimeError, match="simulated crash"):
            kindling("fit", *LONG, *options, *first)
    else:
        kindling("fit", *LONG, *options, *first)
    assert state_of(SECOND)["global_step"] == step
    resumed = kindling("fit", "--ckpt_path", SECOND, "--trainer.callbacks", "null", *then)
    assert resumed.code == 0, resumed.err
    check_same("last", "previous", "best")


@pytest.mark.slow
def test_the_time_limit_prints_how_to_resume_and_applies_to_each_session(kindling: Command) -> None:
    kindling("fit", *LONG, "--trainer.max_epochs", "4000", "--trainer.max_time", "00:00:00:01")
    for _ in range(2):
        before = state_of(FIRST)["global_step"]
        result = kindling("fit", "--ckpt_path", "last")
        assert result.code == 0
        stopped = [line for line in result.out.splitlines() if line.startswith("stopped")]
        assert len(stopped) == 1
        assert "--trainer.max_time" in stopped[0]
        assert f"kindling fit --ckpt_path {FIRST}" in stopped[0]
        after = state_of(FIRST)["global_step"]
        assert after > before
    epochs, batches = divmod(after, 7)
    assert position_in(FIRST).get("samples", 0) == 32 * batches  # and resumed without losing any
    kindling("fit", *LONG, "--trainer.max_epochs", str(epochs + 1))
    kindling("fit", "--ckpt_path", FIRST, "--trainer.max_epochs", str(epochs + 1), "--trainer.max_time", "null")
    assert differences(*(run / "checkpoints/last.ckpt" for run in (FIRST, SECOND))) == []


@pytest.mark.slow
def test_a_run_that_has_reached_max_steps_is_reported(kindling: Command) -> None:
    stopped = kindling("fit", *LONG, "--trainer.max_steps", "5")
    assert "stopped after step 5, in epoch 1: --trainer.max_steps 5; resume with: " in stopped.out
    assert stopped.out.count("--trainer.max_steps 10") == 2
    again = kindling("fit", "--ckpt_path", "last")
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "5 steps" in again.err
    assert "--trainer.max_steps" in again.err


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("options", "sizes", "schedule"),
    [
        (["--data.batch_size", "64"], [64, 56], 2 + 2 * 4),
        (["--data.batch_size", "7"], [*[7] * 16, 8], 17 + 2 * 31),  # 120 = 17 * 7 + 1: no batch of one sample
        (["--data.batch_size", "200"], [120], 1 + 2 * 2),
        (["--data.batch_size", "16", "--trainer.accumulate_grad_batches", "4"], [*[16] * 7, 8], 3 + 2 * 4),
        (["--trainer.limit_train_batches", "5"], [32] * 2, 2 + 2 * 5),
        (["--data.num_workers", "1"], [32, 32, 32, 24], 4 + 2 * 7),
    ],
    ids=["larger", "smaller", "largest", "accumulation", "limit", "workers"],
)
def test_an_epoch_continues_with_its_remaining_samples_in_other_batch_sizes(
    kindling: Command, options: list[str], sizes: list[int], schedule: int
) -> None:
    SampleRecorder.batches.clear()
    kindling("fit", *LONG, *ONE_CYCLE, *callbacks(("SignalAt", {"step": 2}), ("SampleRecorder", {})))
    assert position_in(FIRST) == {"samples": 96, "of": 216, "seed": 42}
    resumed = kindling("fit", "--ckpt_path", "last", *callbacks(("SampleRecorder", {})), *options)
    assert resumed.code == 0, resumed.err
    assert "starts over" not in resumed.err
    batches = SampleRecorder.batches[: 3 + len(sizes)]
    assert [len(batch) for batch in batches[3:]] == sizes
    seen = [value for batch in batches for value in batch]
    assert len(set(seen)) == len(seen) == 96 + sum(sizes)
    scheduler = state_of(FIRST)["lr_schedulers"][0]
    planned = schedule + 3 * (options == ["--data.num_workers", "1"])  # unless nothing changes, it restarts
    assert (scheduler["total_steps"], scheduler["last_epoch"]) == (planned, planned)
    epochs = [row["epoch"] for row in metric_rows(FIRST) if row["train/loss"]]
    assert epochs == [row["epoch"] for row in metric_rows(FIRST) if row["val/loss"]] == ["0", "1", "2"]


@pytest.mark.parametrize("step", [2, 14])  # within an epoch, at its end
def test_a_repeated_set_is_repeated_as_often_with_another_batch_size(kindling: Command, step: int) -> None:
    SampleRecorder.batches.clear()
    repeated = [*LONG, "--data.min_batches", "10"]  # two times 216 samples in batches of 32, three times in those of 64
    kindling("fit", *repeated, *callbacks(("SignalAt", {"step": step}), ("SampleRecorder", {})))
    resumed = kindling("fit", "--ckpt_path", "last", *callbacks(("SampleRecorder", {})), "--data.batch_size", "64")
    assert resumed.code == 0, resumed.err
    assert "starts over" not in resumed.err
    seen = Counter(value for batch in SampleRecorder.batches for value in batch)
    assert set(seen.values()) == {2 * 3}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "options",
    [["--data.val_split", "30"], ["--seed_everything", "7"], ["--trainer.limit_train_batches", "2"]],
    ids=["data", "seed", "limit"],
)
def test_an_epoch_that_cannot_continue_starts_over_with_a_warning(kindling: Command, options: list[str]) -> None:
    SampleRecorder.batches.clear()
    kindling("fit", *LONG, *callbacks(("SignalAt", {"step": 9}), ("SampleRecorder", {})))
    done = len(SampleRecorder.batches)
    resumed = kindling("fit", "--ckpt_path", "last", *callbacks(("SampleRecorder", {})), *options)
    assert resumed.code == 0, resumed.err
    assert resumed.err.count("epoch 2 starts over") == 1
    of_an_epoch = 2 if "2" in options else 7
    assert len(SampleRecorder.batches) == done + 2 * of_an_epoch
    first = [value for batch in SampleRecorder.batches[done : done + of_an_epoch] for value in batch]
    assert len(set(first)) == len(first)
    assert state_of(FIRST)["epoch"] == 3


@pytest.mark.slow
def test_a_run_of_several_processes_says_that_the_batch_size_has_changed_its_meaning(kindling: Command) -> None:
    kindling("fit", *LONG, *callbacks(("SignalAt", {"step": 2})))
    stored = state_of(FIRST)
    state = stored["callbacks"]["ExactResume"]
    state["processes"] *= 2
    del state["is_global"]  # as before `--data.batch_size` counted the samples of all processes
    torch.save(stored, FIRST / "checkpoints/last.ckpt")
    resumed = kindling("fit", "--ckpt_path", "last", "--trainer.callbacks", "null")
    assert resumed.code == 0
    assert "--data.batch_size now counts the samples of all processes: multiply it by 2" in resumed.err


def test_the_last_two_checkpoints_are_kept(kindling: Command) -> None:
    kindling("fit", *LONG, "--trainer.max_steps", "11", "--checkpoint.every_n_minutes", "1e-9")
    assert [state_of(FIRST, name)["global_step"] for name in ("last", "previous")] == [11, 10]
    assert [position_in(FIRST, name)["samples"] for name in ("last", "previous")] == [128, 96]
    assert sorted(path.name for path in (FIRST / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(kindling: Command, trained: Train) -> None:
    trained(*LONG, *PLATEAU)
    kindling("fit", *LONG, *PLATEAU, *callbacks(("SignalAt", {"step": 9})))
    assert [state_of(SECOND, name)["global_step"] for name in ("previous", "best")] == [7, 7]
    path = SECOND / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])
    resumed = kindling("fit", "--ckpt_path", "last", "--trainer.callbacks", "null")
    assert "resuming from previous.ckpt, saved after step 7" in resumed.err
    check_same("last", "previous", "best")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("options", "saves"),
    [([], 3), (["--checkpoint.every_n_steps", "5"], 3 + 4), (["--checkpoint.every_n_minutes", "1e-9"], 3 + 3 * 6)],
    ids=["epochs", "steps", "minutes"],
)
def test_a_checkpoint_is_saved_at_the_requested_interval(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], saves: int
) -> None:
    replaced: list[Path] = []
    monkeypatch.setattr("kindling.training.resume.keep_previous", replaced.append)
    assert kindling("fit", *LONG, *options).code == 0
    assert len(replaced) == saves - 1  # the first one replaces none
    assert state_of(FIRST)["global_step"] == 21


@pytest.mark.parametrize("option", ["every_n_minutes", "every_n_steps"])
def test_an_invalid_checkpoint_interval_is_refused(kindling: Command, option: str) -> None:
    result = kindling("fit", *LONG, f"--checkpoint.{option}", "0")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"checkpoint.{option} must be greater than 0" in result.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_two_processes_resume_within_an_epoch_each_with_its_own_random_numbers(kindling: Command) -> None:
    whole = ["fit", *LONG, *PLATEAU]
    for added in ([], [("SignalAt", {"step": 5})]):
        Ranks(*whole, *callbacks(*added)).wait()
    processes = state_of(SECOND)["callbacks"]["ExactResume"]["processes"]
    assert not torch.equal(*(process["random"]["torch"] for process in processes))
    assert [process["metrics"]["_metric_modules.train_loss"]["samples"] for process in processes] == [96, 96]
    shutil.copytree(SECOND, THIRD)
    Ranks("fit", "--ckpt_path", SECOND, "--trainer.callbacks", "null").wait()
    check_same("last", "best")  # the one before is that of the signal
    # One process continues with the remaining samples of two, and with the metrics of both.
    one = ["--trainer.devices", "1", "--trainer.strategy", "auto", *callbacks(("SampleRecorder", {}))]
    SampleRecorder.batches.clear()
    assert kindling("fit", "--ckpt_path", THIRD, *one).code == 0
    assert [len(batch) for batch in SampleRecorder.batches[:1]] == [24]
    assert state_of(THIRD)["callbacks"]["ExactResume"]["position"] == {}


@pytest.mark.parametrize(("samples", "size"), [(72, 71), (5, 2), (3, 2), (2, 2), (1, 8), (33, 16), (32, 16), (10, 1)])
def test_no_training_batch_is_a_single_sample(samples: int, size: int) -> None:
    batches = list(TrainingBatches(range(samples), size))
    assert [index for batch in batches for index in batch] == list(range(samples))
    assert len(batches) == len(TrainingBatches(range(samples), size))
    assert min(map(len, batches)) > 1 or 1 in (samples, size)
    assert max(map(len, batches)) <= size + 1


def test_an_epoch_of_several_passes_shuffles_each_of_them() -> None:
    data = ArrayDataset(torch.zeros(10, 1), torch.zeros(10))
    sampler, plain = EpochSampler(data, seed=3), EpochSampler(data, seed=3)
    sampler.passes = 3
    sampler.set_epoch(2)
    expected: list[int] = []
    for number in range(6, 9):
        plain.set_epoch(number)
        expected += plain
    assert list(sampler) == expected
    assert len({tuple(expected[start : start + 10]) for start in (0, 10, 20)}) == 3
    sampler.start = 13
    assert list(sampler) == expected[13:]
    assert len(TrainingBatches(sampler, 8)) == 4
    keyed = SeededDataset(data, seed=3)
    sampler = EpochSampler(keyed, seed=3)
    sampler.passes = 3
    sampler.set_epoch(2)
    assert [key % 10 for key in sampler] == expected
    assert [key // 10 for key in sampler] == [6] * 10 + [7] * 10 + [8] * 10  # each pass has its own transforms


@pytest.mark.parametrize(("samples", "start"), [(101, 0), (101, 40), (100, 64), (7, 6)])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [8, 64])
def test_processes_share_the_batches_of_one(samples: int, start: int, processes: int, size: int) -> None:
    data = ArrayDataset(torch.zeros(samples, 1), torch.zeros(samples))

    def epoch(processes: int, rank: int) -> tuple[list[list[int]], list[Share]]:
        sampler = EpochSampler(data, seed=3)
        sampler.set_epoch(5)
        sampler.start = start
        batches = TrainingBatches(sampler, size, processes, rank)
        shares = list(batches.shares(samples - start))
        drawn = list(batches)
        theirs: DistributedSampler[int] = DistributedSampler(data, 1, 0, seed=3)
        theirs.set_epoch(5)
        assert list(sampler) == list(theirs)  # the next epoch is whole
        return drawn, shares

    whole, _ = epoch(1, 0)
    parts = [epoch(processes, rank) for rank in range(processes)]
    assert {len(batches) for batches, _ in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        own = [batches[number][: shares[number].own] for batches, shares in parts]
        assert sorted(index for share in own for index in share) == sorted(batch)
        assert max(map(len, own)) - min(map(len, own)) <= 1
        for share, (batches, shares) in zip(own, parts, strict=True):
            assert shares[number].total == len(batch)
            assert share or (len(batches[number]) == 1 and batches[number][0] in batch)


@pytest.mark.parametrize(("samples", "sizes"), [(64, [32, 32]), (71, [32, 39]), (72, [32, 32, 8]), (5, [5])])
def test_each_process_has_two_samples_for_batch_norm_of_its_own(samples: int, sizes: list[int]) -> None:
    shares = [list(TrainingBatches(range(samples), 32, 4, rank, smallest=8).shares(samples)) for rank in range(4)]
    assert [share.total for share in shares[0]] == sizes
    assert [sum(share.own for share in step) for step in zip(*shares, strict=True)] == sizes
    assert samples < 8 or min(share.own for step in shares for share in step) >= 2


BATCH_NORM = "--model CNNClassifier --data DigitsDataModule --trainer.max_epochs 1 --run_name tiny".split()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.batch_size", "1"], "--data.batch_size 1 is too small"),
        (["--data.shots", "1", "--data.val_split", "9"], "got 1 training sample on 1 devices"),
    ],
    ids=["batch_size", "data"],
)
def test_batch_norm_and_single_samples_are_refused_before_training(
    kindling: Command, options: list[str], words: str
) -> None:
    result = kindling("fit", *BATCH_NORM, *options)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "batch norm (network." in result.err
    assert words in result.err
    assert not Path("runs").exists()
