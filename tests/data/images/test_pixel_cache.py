"""Decoded images on a disk: each is decoded once, and damage, lack of space and other data never change a result."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import Command, differences
from helpers import png_16
from kindling import ImageFolderDataModule, StreamingDataModule
from kindling.data.auto_flip import choose_flip
from kindling.data.disk_cache import DiskCache
from kindling.data.images.pixel_cache import PixelCache
from kindling.utils.inputs import decode_image

IMAGES = 40
pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="Windows has no cache of decoded images")


@pytest.fixture(autouse=True)
def photos(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        low = 60 + 80 * (number % 2)
        pixels = random.integers(low, low + 80, (20, 24, 3), dtype=np.uint8)
        path = folder / "photos" / ("dark", "light")[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder / "photos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets an entry for each decoded image."""
    found: list[int] = []
    for module in ("kindling.data.images.decode", "kindling.data.streaming.shards"):

        def count(*arguments: Any, real: Any = decode_image, **options: Any) -> Tensor:
            found.append(1)
            return real(*arguments, **options)  # type: ignore[no-any-return]

        monkeypatch.setattr(f"{module}.decode_image", count)
    return found


def on_disk(**options: Any) -> ImageFolderDataModule:
    """Return the set-up data module of images that don't fit in memory."""
    settings: dict[str, Any] = {"memory_gb": 0, "cache_dir": "cache", "num_workers": 1} | options
    data = ImageFolderDataModule("photos", **settings)
    data.num_workers = 0
    data.setup("fit")
    return data


def pixels_of(data: Any) -> Tensor:
    return torch.cat([part.inputs[torch.arange(len(part))] for part in (data.train, data.val)])


@pytest.fixture
def expected() -> Tensor:
    data = ImageFolderDataModule("photos")
    data.setup("fit")
    return pixels_of(data)


def stored() -> list[Path]:
    return sorted(Path("cache").rglob("*.pixels"))


def test_each_image_is_decoded_once_also_by_later_runs(decoded: list[int], expected: Tensor) -> None:
    decoded.clear()
    data = on_disk()
    assert len(decoded) == IMAGES
    for _ in range(2):
        assert torch.equal(pixels_of(data), expected)
    assert len(decoded) == IMAGES
    assert torch.equal(pixels_of(on_disk()), expected)
    assert len(decoded) == IMAGES + IMAGES // 5  # test images are checked again

    # Other pixels, or other files, are other images.
    small = ImageFolderDataModule("photos", image_size=8)
    small.setup("fit")
    assert torch.equal(pixels_of(on_disk(image_size=8)), pixels_of(small))
    Image.new("RGB", (24, 20), "red").save("photos/dark/00.jpg")
    fresh = ImageFolderDataModule("photos")
    fresh.setup("fit")
    assert torch.equal(pixels_of(on_disk()), pixels_of(fresh))


@pytest.mark.parametrize("fault", ["pixels", "checksum", "end", "missing"])
def test_a_damaged_image_is_decoded_again(expected: Tensor, decoded: list[int], fault: str) -> None:
    on_disk()
    (path,) = stored()
    content = bytearray(path.read_bytes())
    content[2 if fault == "checksum" else -2] ^= 255
    path.write_bytes(content[:-7] if fault == "end" else content)
    if fault == "missing":
        path.unlink()
    decoded.clear()

    assert torch.equal(pixels_of(on_disk()), expected)

    assert len(decoded) == {"missing": IMAGES}.get(fault, IMAGES // 5 + 1)
    assert torch.equal(pixels_of(on_disk()), expected)


def test_as_many_images_as_fit_are_kept(expected: Tensor, decoded: list[int]) -> None:
    size = expected[0].numel()
    trained = len(expected)
    limit = 10 * size + 4 * trained
    on_disk(cache_gb=limit / 1e9)
    (path,) = stored()
    assert path.stat().st_size == limit
    decoded.clear()
    data = on_disk(cache_gb=limit / 1e9)
    assert len(decoded) == IMAGES - 10
    assert torch.equal(pixels_of(data), expected)

    on_disk()  # has room for all
    assert path.stat().st_size == trained * (size + 4)
    decoded.clear()
    assert torch.equal(pixels_of(on_disk()), expected)
    assert len(decoded) == IMAGES - trained


def test_no_cache_leaves_no_folder(expected: Tensor) -> None:
    assert torch.equal(pixels_of(on_disk(cache_gb=0)), expected)
    assert not Path("cache").exists()


def test_images_that_another_run_reads_stay(expected: Tensor, decoded: list[int]) -> None:
    limit = len(expected) * (expected[0].numel() + 4) + 5 * (3 * 8 * 8) + 4 * len(expected)
    first = on_disk(cache_gb=limit / 1e9)
    (path,) = stored()
    os.utime(path, (1, 1))
    second = on_disk(cache_gb=limit / 1e9, image_size=8)
    assert sum(each.stat().st_size for each in stored()) == limit
    decoded.clear()
    assert torch.equal(pixels_of(first), expected)
    assert decoded == []
    assert path.stat().st_mtime > 1  # used now
    pixels_of(second)
    assert len(decoded) == len(expected) - 5

    del first
    os.utime(path, (1, 1))
    on_disk(cache_gb=limit / 1e9, image_size=10)
    assert path not in stored()


def test_images_of_other_data_make_room_and_those_of_this_run_stay(kindling: Command) -> None:
    pytest.importorskip("litdata")
    assert kindling(*"prepare photos --out shards --workers 0 --shard_mb 0.005".split()).code == 0
    on_disk()
    (old,) = stored()
    os.utime(old, (1, 1))
    limit = 20 * 3 * 20 * 20 + 4 * IMAGES
    data = StreamingDataModule("shards", cache_dir=None, cache_gb=limit / 1e9, num_workers=0)
    data.cache_dir = None
    data._cache.root = Path("cache/kindling-shards").absolute()
    data.setup("fit")
    assert not old.exists()
    names = [path.name.split("-")[0] for path in stored()]
    assert names == ["train", "val"]
    assert sum(path.stat().st_size for path in stored()) <= limit


def test_copies_of_shards_make_room_before_images_that_this_run_decoded() -> None:
    cache = DiskCache("cache", 100)
    folder = cache.root / ("0" * 32)
    folder.mkdir(parents=True)
    for name, used in (("train-1.pixels", 0), ("train-chunk-0-0.bin", 9), ("val-old.pixels", -1e9)):
        (folder / name).write_bytes(bytes(60))
        os.utime(folder / name, (time.time() + used,) * 2)
    assert cache.room() == -20
    cache.make_room()
    assert [path.name for path in folder.iterdir()] == ["train-1.pixels"]


def test_a_full_disk_ends_the_cache_and_not_the_run(
    expected: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert torch.equal(pixels_of(on_disk()), expected)
    assert "no more decoded images are cached: can't write" in caplog.text
    assert caplog.text.count("No space left") == 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    (path,) = stored()
    path.unlink()
    assert torch.equal(pixels_of(on_disk()), expected)
    assert stored() == []


def test_images_cached_before_the_disk_is_full_are_kept(
    expected: Tensor, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    writes = iter(range(1000))

    def full(*arguments: Any, real: Any = os.pwrite) -> int:
        if next(writes) >= 2 * 10:  # pixels and checksums
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(real(*arguments))

    monkeypatch.setattr(os, "pwrite", full)
    data = on_disk()
    decoded.clear()
    assert torch.equal(pixels_of(data), expected)
    assert len(decoded) == len(expected) - 10


def test_a_folder_that_cannot_be_written_is_named(expected: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    Path("cache").write_text("a file")
    assert torch.equal(pixels_of(on_disk()), expected)
    assert "decoded images are not cached: can't write to" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_of_files_are_decoded_once_with_the_same_results(
    kindling: Command, decoded: list[int], workers: int
) -> None:
    pytest.importorskip("litdata")
    assert kindling(*"prepare photos --out shards --workers 0 --shard_mb 0.005".split()).code == 0
    command = (
        "fit --model CNNClassifier --model.channels [4] --data StreamingDataModule --data.path shards --run_name a"
    )
    options = (
        f"--data.cache_dir cache --trainer.max_epochs 2 --test_after_fit false --data.num_workers {workers}".split()
    )
    decoded.clear()
    assert kindling(*command.split(), *options).code == 0
    used = sum(path.stat().st_size for path in stored())
    assert used > 0
    if not workers:
        assert len(decoded) == IMAGES - IMAGES // 5
    # The second run reads decoded images only, and needs no shards.
    for path in Path("cache").rglob("train-chunk*"):
        path.unlink()
    decoded.clear()
    assert kindling(*command.split(), *options).code == 0
    assert not decoded
    assert [*Path("cache").rglob("train-chunk*")] == []
    runs = [Path(f"runs/a/version_{number}/checkpoints/last.ckpt") for number in range(2)]
    assert differences(*runs) == []


def test_threads_that_decode_share_the_cores_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(12)}, raising=False)
    threads: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, number: int) -> None:
            threads.append(number)
            super().__init__(number)

    monkeypatch.setattr("kindling.data.images.decode.ThreadPoolExecutor", Pool)
    for number in range(10):  # images of 16 bits, whose range is found first
        values = np.random.default_rng(number).integers(1000, 2000, (20, 20, 3))
        Path(f"photos/dark/16-{number}.png").write_bytes(png_16(values))
    for devices in (1, 4):
        threads.clear()
        data = ImageFolderDataModule("photos", image_size=8, memory_gb=0, cache_gb=0, flip="auto")
        data.trainer = SimpleNamespace(num_devices=devices, local_rank=0, state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
        data.setup("fit")
        assert data.fitted["levels"]
        assert data.mean
        data.setup("test")
        assert len(threads) > 6
        assert {*threads} == {12 // devices}


def test_processes_share_the_decoding(decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = PixelCache.read

    def watched(cache: PixelCache, rows: list[int], decode: Any) -> Tensor:
        read.extend(rows)
        return real(cache, rows, decode)

    monkeypatch.setattr(PixelCache, "read", watched)
    monkeypatch.setattr("kindling.data.images.datamodule.ImageFolderDataModule.cores", 1)
    data = ImageFolderDataModule("photos", memory_gb=0, cache_dir="cache")
    data.trainer = SimpleNamespace(num_devices=2, local_rank=1, state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    data.setup("fit")
    number = len(data.train) + len(data.val)
    assert read[0] == number // 2
    assert sorted(read) == [*range(IMAGES)]
    assert torch.equal(pixels_of(data), pixels_of(on_disk()))


def test_images_on_demand_are_decoded_in_threads_outside_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolderDataModule("photos", memory_gb=0, cache_gb=0, flip="auto", num_workers=0)
    assert data.training_targets is not None
    assert data.num_workers == 0  # as asked for
    threads = set[int]()

    def slow(*arguments: Any, real: Any = decode_image, **options: Any) -> Tensor:
        threads.add(threading.get_ident())
        return real(*arguments, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr("kindling.data.images.decode.decode_image", slow)
    mean, std = data.mean, data.std
    assert threading.get_ident() not in threads
    in_memory = ImageFolderDataModule("photos")
    assert mean == pytest.approx(in_memory.mean)
    assert std == pytest.approx(in_memory.std)
    threads.clear()
    choose_flip(data.train, 0)
    assert threads
    assert threading.get_ident() not in threads
