"""Ratios, not times: what runs side by side on the same machine. `scripts/benchmark.py` measures with care."""

import statistics
from pathlib import Path

import pytest
import yaml

import benchmark
from conftest import TINY, Command
from helpers import MemoryByEpoch


def test_a_step_costs_little_more_than_in_a_bare_loop() -> None:
    recipe = yaml.safe_load(Path("configs/mnist_cnn_fast.yaml").read_text())
    recipe["data"]["init_args"] |= {"source": "sample", "batch_size": 128}
    path = Path("fast_sample.yaml")
    path.write_text(yaml.safe_dump(recipe))
    times = benchmark.step_overhead(path, Path("data"), rounds=3)
    # 1.1 to 1.2 on a quiet machine; one that is busy with other things measures this and that.
    assert statistics.median(times["kindling"]) <= 1.5 * statistics.median(times["bare"]) + 1


def test_an_epoch_grows_as_its_samples_do(kindling: Command) -> None:
    def seconds_of_a_step(samples: int) -> float:
        times = benchmark.step_times(Path("configs/synthetic_mlp.yaml"), 10**6, "--data.num_samples", samples)
        return statistics.mean(times)

    few, many = zip(*((seconds_of_a_step(4000), seconds_of_a_step(32000)) for _ in range(3)), strict=True)
    assert min(many) <= 1.3 * min(few)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from Linux's /proc")
def test_memory_stays_flat_over_the_epochs(kindling: Command) -> None:
    MemoryByEpoch.megabytes.clear()
    options = ["--trainer.max_epochs", "40", "--trainer.callbacks", "helpers.MemoryByEpoch"]
    assert kindling("fit", *TINY, *options, "--early_stopping.patience", "null").code == 0
    assert len(MemoryByEpoch.megabytes) == 40
    assert MemoryByEpoch.megabytes[-1] - MemoryByEpoch.megabytes[9] < 8
