"""Shards on object stores, mounts and in caches: retries with a limit, bounded space, no hang and no silent gap."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from conftest import Command, differences
from kindling import StreamingDataModule
from kindling.data.streaming import store

pytest.importorskip("litdata")

# 600 samples of 2 KB in 40 shards.
PREPARE = (
    "prepare --data SyntheticDataModule --data.num_samples 600 --data.num_features 500 --out shards --workers 0 "
    "--shard_mb 0.03"
).split()
FIT = (
    "fit --model MLPClassifier --model.hidden [8] --data StreamingDataModule --run_name stream --data.batch_size 32 "
    "--trainer.max_epochs 2 --test_after_fit false"
).split()
FIRST, SECOND = (Path(f"runs/stream/version_{number}") for number in range(2))


@pytest.fixture
def shards(kindling: Command) -> Path:
    assert kindling(*PREPARE).code == 0
    return Path("shards")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def bucket(shards: Path, credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve the shards from an object store on this machine."""
    server_module = pytest.importorskip("moto.server")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    for path in shards.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "data", str(path))
    yield client
    server.stop()


def used(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


class SpaceRecorder(Callback):
    """Records the space of the copies at each training step."""

    bytes: ClassVar[list[int]] = []

    def __init__(self, cache: str) -> None:
        self.cache = Path(cache)

    def on_train_batch_start(self, *_: Any) -> None:
        self.bytes.append(used(self.cache))


def test_an_object_store_trains_like_a_folder_with_little_space(bucket: Any, kindling: Command) -> None:
    assert kindling(*FIT, "--data.path", "shards", "--data.window", "1").code == 0
    total = sum(path.stat().st_size for path in Path("shards").rglob("*.bin"))
    limit = total // 10
    recorder = '[{"class_path": "test_shard_store.SpaceRecorder", "init_args": {"cache": "copies"}}]'

    options = f"--data.window 1 --data.cache_dir copies --data.cache_gb {limit / 1e9} --trainer.callbacks".split()
    result = kindling(*FIT, "--data.path", "s3://data/shards", *options, recorder)

    assert result.code == 0, result.err
    assert "litdata" not in (result.out + result.err).lower()
    assert 0 < max(SpaceRecorder.bytes) <= limit
    assert differences(*(run / "checkpoints/last.ckpt" for run in (FIRST, SECOND))) != []  # other paths
    ours, theirs = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (FIRST, SECOND))
    assert all(torch.equal(ours["state_dict"][name], theirs["state_dict"][name]) for name in ours["state_dict"])


def test_a_damaged_or_missing_object_is_named(bucket: Any, kindling: Command) -> None:
    key = "shards/train/chunk-0-3.bin"
    content = bucket.get_object(Bucket="data", Key=key)["Body"].read()
    bucket.put_object(Bucket="data", Key=key, Body=content[:-1] + bytes([content[-1] ^ 1]))
    result = kindling(*FIT, "--data.path", "s3://data/shards")
    assert result.code == 1
    assert f"s3://data/{key} is damaged (its checksum differs)" in result.err.splitlines()[-1]
    assert [*Path("cache").rglob("train-chunk-0-3.bin")] == []

    bucket.delete_object(Bucket="data", Key=key)
    result = kindling(*FIT, "--data.path", "s3://data/shards", "--data.num_workers", "2")
    assert result.code == 1
    assert f"can't read s3://data/{key} in 3 attempts" in result.err.splitlines()[-1]
    result = kindling(*FIT, "--data.path", "s3://data/other")
    assert "can't read s3://data/other/kindling.json" in result.err.splitlines()[-1]


def test_a_server_that_never_answers_is_given_up(
    credentials: None, kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        result = kindling(*FIT, "--data.path", "s3://data/shards", "--data.timeout", "0.2")
    assert result.code == 1
    assert "can't read s3://data/shards/kindling.json in 3 attempts: " in result.err.splitlines()[-1]


def test_a_disk_that_stops_to_answer_is_given_up(
    shards: Path, kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kindling.data.streaming.shards.ShardInputs._read", lambda *_: threading.Event().wait())
    result = kindling(*FIT, "--data.path", shards, "--data.timeout", "0.2")
    assert result.code == 1
    assert "can't read shards/" in result.err
    assert "no answer for 0.2 seconds" in result.err.splitlines()[-1]


def test_a_failure_that_passes_is_survived(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = StreamingDataModule(str(shards), cache_dir="copies")
    failures = [OSError(5, "Input/output error"), OSError(5, "Input/output error")]
    copy = store.FileStore._copy

    def fail(self: store.FileStore, file: str, target: Any) -> None:
        copy(self, file, target)  # the part that was read before the failure must not count
        if failures and file.endswith(".bin"):
            raise failures.pop()

    monkeypatch.setattr(store.FileStore, "_copy", fail)
    data.setup("fit")
    images, _ = data.train[0]
    assert failures == []
    monkeypatch.setattr(store.FileStore, "_copy", copy)
    plain = StreamingDataModule(str(shards))
    plain.setup("fit")
    assert torch.equal(images, plain.train[0][0])


def test_a_cache_that_is_too_small_says_how_much_is_needed(shards: Path, kindling: Command) -> None:
    result = kindling(*FIT, "--data.path", shards, *"--data.cache_dir copies --data.cache_gb 0.0001".split())
    assert result.code == 1
    assert "--data.cache_gb 0.0001 is too small for two windows of shards: set it to 0.000" in result.err


def test_a_damaged_copy_is_fetched_again(shards: Path) -> None:
    data = StreamingDataModule(str(shards), cache_dir="copies")
    data.setup("fit")
    expected = data.train[0][0]
    (copy,) = Path("copies").rglob("train-chunk-0-0.bin")
    copy.write_bytes(bytes(len(copy.read_bytes())))
    again = StreamingDataModule(str(shards), cache_dir="copies")
    again.setup("fit")
    assert torch.equal(again.train[0][0], expected)


def test_copies_of_killed_processes_do_not_stay(shards: Path) -> None:
    folder = Path("copies") / StreamingDataModule(str(shards)).manifest.digest
    folder.mkdir(parents=True)
    old, young = folder / "a.part", folder / "b.part"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    data = StreamingDataModule(str(shards), cache_dir="copies")
    data.setup("fit")
    assert np.isfinite(data.train[0][0].numpy()).all()
    assert (old.exists(), young.exists()) == (False, True)


def peak_memory(*options: object) -> float:
    """Return the peak memory in MB of a training in its own process."""
    command = [sys.executable, "-c", "from kindling.cli import program; program()", *FIT, *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="Windows does not report the memory of a process that has ended")
def test_a_set_ten_times_the_cache_trains_in_little_memory(shards: Path, kindling: Command) -> None:
    large = "--data SyntheticDataModule --data.num_samples 21000 --data.num_features 5000 --out large".split()
    assert kindling("prepare", "--workers", "0", "--shard_mb", "2", *large).code == 0
    total = sum(path.stat().st_size for path in Path("large").rglob("*.bin"))
    cache = ["--data.cache_dir", "copies", "--data.cache_gb", total / 10 / 1e9]
    epoch = ["--trainer.max_epochs", "1", "--data.num_workers", "0"]

    little = peak_memory("--data.path", shards, *epoch)
    much = peak_memory("--data.path", "large", *cache, *epoch)

    assert total > 400e6
    assert used(Path("copies")) <= total / 10
    assert much - little < 150  # in memory, it would be more than 400
