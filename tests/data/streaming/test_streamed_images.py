"""Images as shards: prepared by the command, trained on, tested, and resumed."""

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from conftest import SHUFFLENET, Command, differences
from kindling import ImageFolderDataModule, StreamingDataModule
from kindling.data.checks import inspect_data
from kindling.data.streaming.image_source import ImageSource
from kindling.data.streaming.plan import ShardTask
from kindling.data.streaming.store import FileStore
from kindling.data.streaming.writing import ShardWriter
from ranks import Ranks

pytest.importorskip("litdata")

PREPARE = "prepare photos --out shards --workers 0 --shard_mb 0.004".split()
FIT = (
    "fit --model CNNClassifier --model.channels [4,8] --data StreamingDataModule --data.path shards --run_name stream "
    "--data.batch_size 8 --data.num_workers 0 --trainer.max_epochs 3"
).split()
RECORDER = """
import json
from lightning.pytorch import Callback

class Recorder(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen += [hash(image.numpy().tobytes()) for image in batch[0]]

    def on_train_epoch_end(self, trainer, pl_module):
        with open(f"seen-{trainer.current_epoch}-{trainer.global_rank}.json", "w") as file:
            json.dump(self.seen, file)
        self.seen = []
"""
FIRST, SECOND = (Path(f"runs/stream/version_{number}") for number in range(2))


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def photo_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 60 images of two classes, most of them JPEG, some of them copies."""
    folder = tmp_path_factory.mktemp("source") / "photos"
    random = np.random.default_rng(0)
    for number in range(60):
        low = 60 + 80 * (number % 2)
        pixels = random.integers(low, low + 80, (14, 12 + number % 3, 3), dtype=np.uint8)
        path = folder / ("dark", "light")[number % 2] / f"{number:02}.{'png' if number % 7 == 0 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    shutil.copyfile(folder / "dark/02.jpg", folder / "dark/copy.jpg")
    return folder


@pytest.fixture
def photos(photo_source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(photo_source, folder / "photos"))


@pytest.fixture(scope="session")
def stored_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored") / "shards"


@pytest.fixture
def shards(photos: Path, kindling: Command, stored_shards: Path) -> Path:
    """Prepare shards of the photos once, and copy them."""
    if not stored_shards.exists():
        assert kindling(*PREPARE, "--out", stored_shards).code == 0
    return Path(shutil.copytree(stored_shards, "shards"))


def manifest(folder: str = "shards") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "kindling.json").read_text())
    return found


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def samples_of(data: Any) -> dict[str, set[bytes]]:
    """Return the pixels and the class of each sample by split."""
    data.setup("fit")
    data.setup("test")
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {
        name: {
            image.numpy().tobytes() + bytes([int(label)]) for image, label in (dataset[i] for i in range(len(dataset)))
        }
        for name, dataset in splits.items()
    }


@pytest.mark.usefixtures("photos")
def test_a_plan_does_not_depend_on_the_digests_in_checkpoints() -> None:
    data = ImageFolderDataModule("photos")
    plan = ImageSource(data, None, None).digest()
    del data.fitted["trained"]
    samples = [
        (*sample, data._images.digests[sample.file].hex())
        for split in ("train", "val", "test")
        for sample in data._samples
        if sample.split == split
    ]
    assert plan == hashlib.sha256(repr((samples, data.fitted)).encode()).hexdigest()


@pytest.mark.usefixtures("shards")
def test_few_shards_are_open_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[BinaryIO] = []
    numbers: list[int] = []

    def count(store: FileStore, stored: Any, real: Any = FileStore.open) -> BinaryIO:
        opened.append(real(store, stored))
        numbers.append(sum(not file.closed for file in opened))
        return opened[-1]

    monkeypatch.setattr(FileStore, "open", count)
    data = StreamingDataModule("shards", num_workers=0, window=1, flip="auto", cache_gb=0)
    data.setup("fit")
    index = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    together = data.train.inputs[index]
    assert len(data.train.stored.shards) > 6
    assert max(numbers) == 2
    for row, image in zip(index, together, strict=True):
        assert torch.equal(data.train.inputs[row : row + 1][0], image)


def test_prepared_images_are_those_of_the_folder(photos: Path, kindling: Command) -> None:
    result = kindling(*PREPARE)

    assert result.code == 0, result.err
    assert "61 samples (45 train, 4 val, 12 test)" in result.out
    assert "next: kindling fit --config images_cnn --data StreamingDataModule --data.path shards" in result.out
    found = manifest()
    for split, described in found["splits"].items():
        for stored in [*described["shards"], described["targets"]]:
            content = Path("shards", stored["file"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (stored["bytes"], stored["sha256"])
            assert stored["file"].startswith(split)
    in_memory, streamed = ImageFolderDataModule("photos"), StreamingDataModule("shards", num_workers=0)
    assert samples_of(streamed) == samples_of(in_memory)
    assert streamed.class_names == in_memory.class_names == ("dark", "light")
    assert streamed.class_counts == in_memory.class_counts
    assert streamed.input_shape == in_memory.input_shape
    assert streamed.mean == pytest.approx(in_memory.mean, abs=1e-6)
    assert streamed.std == pytest.approx(in_memory.std, abs=1e-6)
    assert {*streamed.tested_rows()} == {*in_memory.tested_rows()}


def test_labels_in_shards_are_checked(photos: Path, kindling: Command) -> None:
    (photos / "light/01.jpg").rename(photos / "dark/wrong.jpg")
    kindling(*PREPARE)

    report = inspect_data(StreamingDataModule("shards", num_workers=0))
    (labels,) = (finding.where for finding in report.findings if finding.check == "labels")
    assert len(labels) == 1
    assert ": dark, predicted light" in labels[0]


@pytest.mark.usefixtures("shards")
def test_litdata_itself_reads_the_shards_and_jpegs_keep_their_bytes(photos: Path) -> None:
    from litdata import StreamingDataset

    files = [bytes(sample[0]) for split in ("train", "val", "test") for sample in StreamingDataset(f"shards/{split}")]
    assert sorted(files) == sorted(path.read_bytes() for path in photos.rglob("*.*"))


@pytest.mark.usefixtures("shards")
def test_training_on_shards_tests_and_predicts_as_in_memory(photos: Path, kindling: Command) -> None:
    result = kindling(*FIT, "--trainer.max_epochs", "8", "--model.optimizer.lr", "0.02", "--data.flip", "true")

    assert result.code == 0, result.err
    metrics = json.loads((FIRST / "test_metrics.json").read_text())
    assert metrics["test/accuracy"] > 0.9
    with (FIRST / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"].split("/")[0] == row["label"] for row in rows} == {True}
    # The same weights have the same metrics on the images in memory.
    options = "--data ImageFolderDataModule --data.data_dir photos --data.eval_batch_size 128".split()
    assert kindling("test", "--ckpt_path", FIRST, *options).code == 0
    again = json.loads((FIRST / "test_metrics.json").read_text())
    assert again == pytest.approx(metrics, abs=1e-6)
    # New images are predicted as ever.
    shutil.rmtree("shards")
    Path("new").mkdir()
    shutil.copyfile(photos / "light/01.jpg", "new/one.jpg")
    assert kindling("predict", "--ckpt_path", FIRST, "--data.predict", "new").code == 0
    Path("new/two.jpg").write_text("broken")
    result = kindling("predict", "--ckpt_path", FIRST, "--data.predict", "new")
    assert result.code == 1
    assert result.err.endswith("are empty: two.jpg; replace them\n")  # streamed data has no --data.skip_broken


@pytest.mark.quick_cases(1)
@pytest.mark.usefixtures("shards")
@pytest.mark.parametrize("options", [[], ["--data.num_workers", "2"], ["--data.cache_dir", "cache"]])
def test_an_interrupted_epoch_resumes_with_the_same_bits(kindling: Command, options: list[str]) -> None:
    command = [*FIT, "--data.window", "2", "--data.crop", "0.8", "--test_after_fit", "false", *options]
    assert kindling(*command).code == 0
    stop = [{"class_path": "helpers.SignalAt", "init_args": {"step": 8}}]

    assert kindling(*command, "--trainer.callbacks", json.dumps(stop)).code == 1
    stored = torch.load(SECOND / "checkpoints/last.ckpt", weights_only=True)
    assert stored["callbacks"]["ExactResume"]["position"]["samples"] == 24
    assert kindling("fit", "--ckpt_path", SECOND, "--trainer.callbacks", "null").code == 0

    assert differences(*(run / "checkpoints/last.ckpt" for run in (FIRST, SECOND))) == []


@pytest.mark.usefixtures("shards")
def test_an_epoch_has_each_sample_once_in_an_order_of_its_own() -> None:
    data = StreamingDataModule("shards", window=2, num_workers=0)
    data.setup("fit")
    number, loader = len(data.train), data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        keys = [key for batch in loader.batch_sampler for key in batch]  # type: ignore[union-attr]
        assert {key // number for key in keys} == {epoch}
        assert sorted(key % number for key in keys) == [*range(number)]
    orders = [data.train.shuffle(torch.Generator().manual_seed(seed)).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(number))
    # Samples are mixed within windows of two shards, and not beyond.
    shards = data.train.inputs.shards_of(orders[0])
    assert len(set(shards)) > 4
    changes = [len(set(shards[start : start + 4])) for start in range(0, number, 4)]
    assert max(changes) <= 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound to cores")
@pytest.mark.usefixtures("photos", "shards")
@pytest.mark.parametrize("streamed", [True, False])
def test_workers_of_all_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(12)})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for devices, workers in ((1, 12), (4, 3), (24, 1)):
        data = StreamingDataModule("shards") if streamed else ImageFolderDataModule("photos", memory_gb=0)
        data.trainer = SimpleNamespace(num_devices=devices, local_rank=0, state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
        data.setup("fit")
        assert data.num_workers == workers


@pytest.mark.parametrize("fault", ["damaged", "short", "missing"])
def test_a_faulty_shard_is_named_in_one_line(
    shards: Path, kindling: Command, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("kindling.data.streaming.store.FIRST_PAUSE", 0.01)
    shard = shards / "train/chunk-0-1.bin"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 255
    shard.unlink() if fault == "missing" else shard.write_bytes(content[:-9] if fault == "short" else content)

    result = kindling(*FIT)

    assert result.code == 1
    (line,) = result.err.strip().splitlines()
    assert f"{shard} is {'missing' if fault == 'missing' else 'damaged'}" in line
    assert "kindling prepare" in line


def test_broken_images_are_reported_and_left_out(photos: Path, kindling: Command) -> None:
    broken = photos / "dark/02.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    (photos / "light/zz.jpg").write_text("no image")

    result = kindling(*PREPARE)

    assert result.code == 0, result.err
    assert "left out: 2 broken samples" in result.out
    assert "dark/02.jpg: this image is broken" in result.out
    found = manifest()
    assert found["broken"] == 2
    assert found["broken_examples"].keys() == {"dark/02.jpg", "light/zz.jpg"}
    assert sum(shard["samples"] for split in found["splits"].values() for shard in split["shards"]) == 60


def test_a_first_shard_without_usable_samples_is_left_out(photos: Path, kindling: Command) -> None:
    from litdata import StreamingDataset

    kindling(*PREPARE, "--shard_mb", "0.001")
    content = bytes(StreamingDataset("shards/train")[0][0])
    (first,) = [path for path in photos.rglob("*.*") if path.read_bytes() == content]
    shutil.rmtree("shards")
    first.write_bytes(bytes(len(content)))

    result = kindling(*PREPARE, "--shard_mb", "0.001")

    assert result.code == 0, result.err
    assert "left out: 1 broken sample" in result.out
    assert manifest()["splits"]["train"]["shards"][0]["file"] == "train/chunk-0-1.bin"


def test_a_folder_without_usable_test_images_leaves_no_files(photos: Path, kindling: Command) -> None:
    for label in ("dark", "light"):
        (photos / "test" / label).mkdir(parents=True)
        (photos / "test" / label / "1.jpg").write_bytes(b"no image")
        shutil.move(photos / label, photos / "train" / label)
    result = kindling(*PREPARE)
    assert result.code == 1
    assert "photos has no usable test samples: this image is broken" in result.err.splitlines()[-1]
    assert not Path("shards").exists()


@pytest.mark.usefixtures("shards", "cached")
def test_features_of_a_frozen_backbone_are_computed_once(kindling: Command) -> None:
    model = f"--model TransferClassifier --model.backbone {SHUFFLENET} --model.unfreeze_epoch null".split()
    result = kindling("fit", *model, *FIT[5:])
    assert result.code == 0, result.err
    assert "computing the features of 49 images once" in result.out + result.err


def test_an_interrupted_preparation_is_not_complete_and_continues(
    photos: Path, kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = ShardWriter._write, list[str]()

    def interrupted(self: ShardWriter, task: ShardTask) -> dict[str, Any]:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(task.file)
        return write(self, task)

    monkeypatch.setattr(ShardWriter, "_write", interrupted)
    assert kindling(*PREPARE).code == 1
    assert "its preparation was interrupted: run the same kindling prepare" in kindling(*FIT).err
    assert "unfinished preparation of other data or with other options" in kindling(*PREPARE, "--size", "8").err
    before = {file: Path("shards", file).stat().st_mtime_ns for file in written}

    monkeypatch.setattr(ShardWriter, "_write", write)
    assert kindling(*PREPARE).code == 0

    assert {file: Path("shards", file).stat().st_mtime_ns for file in written} == before
    kindling(*PREPARE, "--out", "whole", "--workers", "2")
    assert contents("shards") == contents("whole")
    # Once finished, the same command changes nothing, and another one is refused.
    assert kindling(*PREPARE).code == 0
    assert contents("shards") == contents("whole")
    assert "choose another --out" in kindling(*PREPARE, "--size", "8").err


@pytest.mark.slow
def test_a_killed_preparation_continues_and_ends_with_the_same_bytes(photos: Path, kindling: Command) -> None:
    options = [*PREPARE[:-1], "0.001", "--out"]
    command = [sys.executable, "-c", "from kindling.cli import program; program()", *options, "again"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not [*Path("again").glob("*/chunk-0-3.bin")]:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not Path("again/kindling.json").exists()

    assert kindling(*options, "again").code == 0

    kindling(*options, "whole")
    assert contents("again") == contents("whole")


def test_stored_pixels_have_the_size_that_was_asked_for(photos: Path, kindling: Command) -> None:
    assert kindling(*PREPARE, "--size", "8").code == 0
    in_memory, streamed = ImageFolderDataModule("photos", image_size=8), StreamingDataModule("shards")
    assert samples_of(streamed) == samples_of(in_memory)
    assert streamed.num_workers == 0
    smaller = StreamingDataModule("shards", image_size=4, batch_size=8)
    smaller.setup("fit")
    images, _ = next(iter(smaller.train_dataloader()))
    assert images.shape == (8, 3, 4, 4)


def test_large_images_are_stored_smaller(folder: Path, kindling: Command) -> None:
    from litdata import StreamingDataset

    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    for number, photo in enumerate(2 * load_sample_images().images):
        path = folder / "large" / ("china", "flower")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[: 427 - number]).save(path, quality=95, exif=exif if number > 1 else b"")
    Image.new("RGB", (500, 90), "red").save(folder / "large/china/small.png")
    command = "prepare large --workers 0 --data.test_split 1 --data.val_split 1 --data.image_size 64".split()

    assert kindling(*command, "--out", "shards", "--shorter_side", "100").code == 0

    assert kindling(*command, "--out", "original").code == 0
    found = []
    for split in ("train", "val", "test"):
        for sample in StreamingDataset(f"shards/{split}"):
            with Image.open(io.BytesIO(bytes(sample[0]))) as image:
                found.append((image.format, min(image.size)))
    assert sorted(found) == [*[("JPEG", 100)] * 4, ("PNG", 90)]
    ours, theirs = StreamingDataModule("shards"), StreamingDataModule("original")
    for data in (ours, theirs):
        data.setup("fit")
    difference = ours.train.inputs[:].float() - theirs.train.inputs[:].float()
    assert 0 < difference.abs().mean() <= 3
    assert [*ours.mean] == pytest.approx(theirs.mean, abs=0.01)

    result = kindling(*command, "--out", "both", "--shorter_side", "100", "--size", "8")
    assert "--size stores pixels and --shorter_side files: choose one" in result.err
    result = kindling(*"prepare --data SyntheticDataModule --out rows --shorter_side 8".split())
    assert "--shorter_side resizes images of a folder; SyntheticDataModule has other samples" in result.err


@pytest.mark.slow
@pytest.mark.usefixtures("shards")
def test_processes_share_an_epoch_and_resume_with_the_same_bits(
    kindling: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    Path("recorder.py").write_text(RECORDER)
    monkeypatch.syspath_prepend(".")
    options = [*FIT, "--data.batch_size", "4", "--data.window", "2", "--test_after_fit", "false"]
    recorder = {"class_path": "recorder.Recorder"}
    stop = {"class_path": "helpers.SignalAt", "init_args": {"step": 8, "rank": 1}}
    results = Ranks(*options, "--trainer.callbacks", json.dumps([recorder])).wait()
    assert [result.code for result in results] == [0, 0]
    for epoch in range(3):
        seen = [json.loads(Path(f"seen-{epoch}-{rank}.json").read_text()) for rank in range(2)]
        assert len({*seen[0], *seen[1]}) == 44  # of 45 training images, two are copies
        assert len(seen[0]) + len(seen[1]) <= 46

    assert {result.code for result in Ranks(*options, "--trainer.callbacks", json.dumps([stop])).wait()} == {1}
    results = Ranks("fit", "--ckpt_path", SECOND, "--trainer.callbacks", "null").wait()
    assert [result.code for result in results] == [0, 0]
    assert differences(*(run / "checkpoints/last.ckpt" for run in (FIRST, SECOND))) == []
