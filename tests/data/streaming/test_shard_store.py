"""Shards on object stores, mounts and in caches: retries with a limit, bounded space, no hang and no silent gap."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
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
from kindling.data.streaming.copying import Origin
from kindling.data.streaming.manifest import StoredFile
from kindling.data.streaming.shards import OpenShard, ShardDataset

pytest.importorskip("litdata")

# 600 samples of 2 KB in 40 shards.
PREPARE = (
    "prepare --data SyntheticDataModule --data.num_samples 600 --data.num_features 500 --workers 0 --shard_mb 0.03"
).split()
FIT = (
    "fit --model MLPClassifier --model.hidden [8] --data StreamingDataModule --run_name stream --data.batch_size 32 "
    "--trainer.max_epochs 2 --test_after_fit false"
).split()
FIRST, SECOND = (Path(f"runs/stream/version_{number}") for number in range(2))


@pytest.fixture(scope="session")
def stored_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored") / "shards"


@pytest.fixture
def shards(kindling: Command, stored_shards: Path) -> Path:
    """Prepare shards once, and copy them."""
    if not stored_shards.exists():
        assert kindling(*PREPARE, "--out", stored_shards).code == 0
    return Path(shutil.copytree(stored_shards, "shards"))


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
    monkeypatch.setattr("kindling.data.streaming.shards.OpenShard._read", lambda *_: threading.Event().wait())
    result = kindling(*FIT, "--data.path", shards, "--data.timeout", "0.2")
    assert result.code == 1
    assert "can't read shards/" in result.err
    assert "no answer for 0.2 seconds" in result.err.splitlines()[-1]


def test_a_failure_that_passes_is_survived(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = StreamingDataModule(str(shards), cache_dir="copies")
    failures = [OSError(5, "Input/output error"), OSError(5, "Input/output error")]
    copy = Origin.copy

    def fail(self: Origin, file: str, target: Any) -> None:
        copy(self, file, target)  # the part that was read before the failure must not count
        if failures and file.endswith(".bin"):
            raise failures.pop()

    monkeypatch.setattr(Origin, "copy", fail)
    data.setup("fit")
    images, _ = data.train[0]
    assert failures == []
    monkeypatch.setattr(Origin, "copy", copy)
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
    folder = Path("copies/kindling-shards") / StreamingDataModule(str(shards)).manifest.digest
    folder.mkdir(parents=True)
    old, young = folder / "train-a.part", folder / "train-b.part"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    data = StreamingDataModule(str(shards), cache_dir="copies")
    data.setup("fit")
    assert np.isfinite(data.train[0][0].numpy()).all()
    assert (old.exists(), young.exists()) == (False, True)


def test_other_files_in_the_folder_of_copies_stay(shards: Path) -> None:
    data = StreamingDataModule(str(shards), cache_dir="copies", cache_gb=15e-5, window=1)
    others = [
        Path("copies/photos/holiday.jpg"),
        Path("copies/kindling-shards/notes/train-1.txt"),
        Path(f"copies/kindling-shards/{data.manifest.digest}/notes.part"),
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100_000))
        os.utime(path, (0, 0))
    data.setup("fit")
    for start in range(0, len(data.train), 50):
        data.train.inputs[start : start + 50]
    assert [path for path in others if not path.exists()] == []
    copies = [*Path("copies").rglob("*.bin")]
    assert 0 < sum(path.stat().st_size for path in copies) <= 150_000


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists the open files of a process")
def test_few_shards_are_open_so_that_removed_copies_free_their_space(shards: Path) -> None:
    data = StreamingDataModule(str(shards), cache_dir="copies", cache_gb=15e-5, window=1)
    data.setup("fit")
    for start in range(0, len(data.train), 10):
        data.train.inputs[start : start + 10]
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert 0 < len([link for link in links if link.startswith(str(Path.cwd()))]) <= 2


@pytest.mark.parametrize("cached", [False, True])
def test_a_shard_that_is_cut_while_it_is_open_is_named_or_copied_again(shards: Path, cached: bool) -> None:
    data = StreamingDataModule(str(shards), cache_dir="copies" if cached else None)
    data.setup("fit")
    first, second = (int(start) for start in data.train.inputs.starts[:2])
    rows = torch.tensor([second - 1, second])
    expected = data.train.inputs[rows]
    assert first < second - 1
    (path,) = Path("copies" if cached else shards).rglob("train-chunk-0-0.bin" if cached else "train/chunk-0-0.bin")
    size = path.stat().st_size
    os.truncate(path, size - 100)
    if cached:
        assert torch.equal(data.train.inputs[rows], expected)
        return
    with pytest.raises(ValueError, match=rf"train/chunk-0-0.bin is damaged \(it has {size - 100:,} of {size:,} bytes"):
        data.train.inputs[rows]


def test_a_read_that_fails_twice_is_survived(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = StreamingDataModule(str(shards))
    data.setup("fit")
    expected = data.train.inputs[:40]
    failures = [OSError(116, "Stale file handle")] * 2
    read = OpenShard._read

    def fail(self: OpenShard, start: int, size: int) -> bytearray:
        if failures:
            raise failures.pop()
        return read(self, start, size)

    monkeypatch.setattr(OpenShard, "_read", fail)
    assert torch.equal(data.train.inputs[:40], expected)
    assert failures == []


def test_a_read_that_gets_no_answer_once_is_survived(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = StreamingDataModule(str(shards))
    expected.setup("fit")
    data = StreamingDataModule(str(shards), timeout=0.2)
    data.setup("fit")
    answers, read = [threading.Event()], OpenShard._read

    def hang(self: OpenShard, start: int, size: int) -> bytearray:
        if answers:
            answers.pop().wait()
        return read(self, start, size)

    monkeypatch.setattr(OpenShard, "_read", hang)
    assert torch.equal(data.train.inputs[:40], expected.train.inputs[:40])
    assert answers == []


def test_a_late_answer_to_an_earlier_attempt_does_not_change_which_shard_is_verified(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = StreamingDataModule(str(shards), timeout=0.2)
    data.setup("fit")
    stored, last = data.train.inputs.shards, len(data.train.inputs) - 1
    answered, has_moved_on = threading.Event(), threading.Event()
    attempts: list[threading.Thread] = []
    read, forget, forgotten = OpenShard._read, store.FileStore.forget, list[str]()

    def late(self: OpenShard, start: int, size: int) -> bytearray:
        thread = threading.current_thread()
        if thread not in attempts:
            attempts.append(thread)
        if thread is attempts[0]:
            answered.wait()
            if Path(self.file.name).name != Path(stored[0].file).name:
                has_moved_on.set()
        elif thread is attempts[1]:
            answered.set()
            has_moved_on.wait(5)
            raise OSError(5, "Input/output error")
        return read(self, start, size)

    def record(self: store.FileStore, file: StoredFile) -> None:
        forgotten.append(file.file)
        forget(self, file)

    monkeypatch.setattr(OpenShard, "_read", late)
    monkeypatch.setattr(store.FileStore, "forget", record)
    assert len(data.train.inputs[torch.tensor([0, last])]) == 2
    assert has_moved_on.is_set()
    assert forgotten == [stored[0].file] * 2


def test_reading_takes_as_long_as_there_is_progress(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = StreamingDataModule(str(shards), timeout=0.2)
    data.setup("fit")
    expected = data.train.inputs[:10]
    read = OpenShard._read

    def slow(self: OpenShard, start: int, size: int) -> bytearray:
        time.sleep(0.05)
        return read(self, start, size)

    monkeypatch.setattr(OpenShard, "_read", slow)
    assert torch.equal(data.train.inputs[:10], expected)


def test_shards_with_other_content_than_described_are_named(shards: Path) -> None:
    path = shards / "train/chunk-0-0.bin"
    content = bytearray(path.read_bytes())
    (samples,) = np.frombuffer(content[:4], np.uint32)
    start = int(np.frombuffer(content[4:8], np.uint32)[0])
    content[4 : 4 * (int(samples) + 2)] = np.full(samples + 1, start, np.uint32).tobytes()  # samples of no bytes
    path.write_bytes(content)
    manifest = json.loads((shards / "kindling.json").read_text())
    manifest["splits"]["train"]["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (shards / "kindling.json").write_text(json.dumps(manifest))
    data = StreamingDataModule(str(shards))
    data.setup("fit")
    with pytest.raises(ValueError, match=r"train/chunk-0-0.bin is damaged \(its samples are not what kindling.json"):
        data.train[0]


def test_other_targets_make_another_data_set(shards: Path) -> None:
    before = StreamingDataModule(str(shards)).manifest.digest
    manifest = json.loads((shards / "kindling.json").read_text())
    manifest["splits"]["test"]["targets"]["sha256"] = "0" * 64
    (shards / "kindling.json").write_text(json.dumps(manifest))
    assert StreamingDataModule(str(shards)).manifest.digest != before


def test_each_epoch_computes_its_windows_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = StreamingDataModule(str(shards), cache_dir="copies", window=2)
    data.setup("fit")
    computed, windows = [], ShardDataset._windows

    def count(*arguments: Any) -> Any:
        computed.append(1)
        return windows(*arguments)

    monkeypatch.setattr(ShardDataset, "_windows", count)
    keys = data.train.shuffle(torch.Generator().manual_seed(0)).tolist()
    computed.clear()
    for start in range(0, 100, 10):
        data.train.__getitems__(keys[start : start + 10])
    assert computed == [1]


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


def test_workers_verify_each_shard_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = Path("verified.txt").absolute()
    real = store.FileStore._verify

    def count(self: store.FileStore, path: Path, *arguments: Any) -> None:
        with verified.open("a") as file:
            file.write(f"{path}\n")
        real(self, path, *arguments)

    monkeypatch.setattr(store.FileStore, "_verify", count)
    data = StreamingDataModule(str(shards), num_workers=1)
    data.setup("fit")
    for _ in range(2):
        for _ in data.train_dataloader():
            pass
    lines = verified.read_text().splitlines()
    assert len(lines) == len({*lines}) > 20
