import os
import random
import shutil
import struct
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy

from conftest import TINY, Command, Train, different
from kindling import load
from kindling.runs.checkpoints import DamagedError, read_checkpoint, save
from kindling.runs.metadata import RunMetadata
from kindling.training.checkpoint_io import AtomicCheckpointIO, write_atomically

RUN = Path("runs/tiny/version_0")
LAST, BEST = RUN / "checkpoints/last.ckpt", RUN / "checkpoints/best.ckpt"
MORE = ["fit", "--ckpt_path", RUN, "--trainer.max_epochs", "3"]


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.unlink()  # other tests may have mapped the old file into memory
    path.write_bytes(data)


def damage(path: Path) -> None:
    """Flip a bit of the weights."""
    weights = read_checkpoint(path)["state_dict"]["network.1.weight"]
    flip(path, path.read_bytes().index(weights.numpy().tobytes()) + 5, bit=3)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or one != one


@pytest.mark.slow
def test_no_flipped_bit_changes_what_is_loaded(trained: Train) -> None:
    trained(*TINY)
    whole, found = LAST.read_bytes(), read_checkpoint(LAST)
    draw = random.Random(0)
    detected = 0
    for number in range(150):
        other = Path(f"{number}.ckpt")
        other.write_bytes(whole)
        flip(other, draw.randrange(len(whole)), draw.randrange(8))
        try:
            loaded = read_checkpoint(other)
        except DamagedError:
            detected += 1
        else:
            assert same(loaded, found)  # the bit is in bytes that are not read
        other.unlink()
    assert detected > 80


def regions(path: Path) -> dict[str, range]:
    """Return the byte ranges of the parts of a checkpoint file."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        found = {"header": range(30), "directory": range(archive.start_dir, path.stat().st_size)}
    whole = path.read_bytes()
    for entry in entries:
        names, extras = struct.unpack_from("<2H", whole, entry.header_offset + 26)
        start = entry.header_offset + 30 + names + extras
        found[entry.filename.partition("/")[2]] = range(start, start + entry.file_size)
    return found


@pytest.mark.parametrize("region", ["header", "directory", "data.pkl", "data/"])
def test_a_flipped_bit_is_found_in_each_region_of_the_file(trained: Train, region: str) -> None:
    trained(*TINY)
    whole, found = LAST.read_bytes(), read_checkpoint(LAST)
    positions = [place for name, places in regions(LAST).items() if name.startswith(region) for place in places]
    draw = random.Random(0)
    for number in range(20):
        other = Path(f"{number}.ckpt")
        other.write_bytes(whole)
        flip(other, draw.choice(positions), draw.randrange(8))
        if region in ("header", "directory"):  # they contain bytes that are not read, such as times
            with suppress(DamagedError):
                assert same(read_checkpoint(other), found)
        else:
            with pytest.raises(DamagedError):
                read_checkpoint(other)
        other.unlink()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_command_reads_its_checkpoint_once(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    trained(*TINY)
    load = Mock(wraps=torch.load)
    monkeypatch.setattr(torch, "load", load)
    options = [*MORE[1:], "--test_after_fit", "false"] if command == "fit" else ["--ckpt_path", RUN]
    result = kindling(command, *options)
    assert result.code == 0, result.err
    assert [call.args[0] for call in load.call_args_list] == [LAST if command == "fit" else BEST]


def test_a_loaded_checkpoint_is_passed_to_lightning_once() -> None:
    save({"weights": torch.zeros(2)}, Path("a.ckpt"))
    save({"weights": torch.ones(2)}, Path("b.ckpt"))
    for name in ("a.ckpt", "b.ckpt"):
        held: dict[str, Any] = {}
        files = AtomicCheckpointIO(loaded=(Path("a.ckpt"), held))
        if name == "a.ckpt":
            assert files.load_checkpoint(Path(name).absolute()) is held
        with pytest.raises(ValueError, match="not a Kindling checkpoint"):
            files.load_checkpoint(name)


def test_a_checkpoint_that_was_changed_and_saved_again_loads(trained: Train) -> None:
    trained(*TINY)
    stored = torch.load(BEST, weights_only=True)
    stored["state_dict"]["network.1.weight"] += 1
    torch.save(stored, "changed.ckpt")
    assert same(read_checkpoint(Path("changed.ckpt")), stored)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_damaged_checkpoint_is_refused_in_one_line(kindling: Command, trained: Train, command: str) -> None:
    trained(*TINY)
    damage(BEST)
    result = kindling(command, "--ckpt_path", BEST, *MORE[3:][: 2 * (command == "fit")])
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{BEST} is damaged" in result.err
    with pytest.raises(ValueError, match="damaged"):
        load(BEST)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("how", ["flipped", "empty", "cut off"])
def test_a_damaged_last_checkpoint_is_replaced_by_the_newest_intact_one(
    kindling: Command, trained: Train, how: str
) -> None:
    trained(*TINY)
    shutil.copy(BEST, BEST.with_name("older.ckpt"))
    stored = read_checkpoint(BEST) | {"global_step": 3}
    save(stored, BEST.with_name("older.ckpt"))
    if how == "flipped":
        damage(LAST)
    else:
        LAST.write_bytes(LAST.read_bytes()[: 2000 * (how == "cut off")])
    result = kindling(*MORE)
    assert result.code == 0, result.err
    assert f"{LAST} is damaged: resuming from best.ckpt, saved after step 14" in result.err
    assert torch.load(LAST, weights_only=True)["global_step"] == 21
    assert not Path("runs/tiny/version_1").exists()


def test_a_run_without_an_intact_checkpoint_is_refused_in_one_line(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    for checkpoint in LAST.parent.glob("*.ckpt"):
        damage(checkpoint)
    result = kindling(*MORE)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "no intact checkpoint" in result.err


@pytest.mark.slow
def test_checkpoints_need_no_temporary_folder(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", "/proc/none")
        patch.setenv("TMPDIR", "/proc/none")
        result = kindling("fit", *TINY)
    assert result.code == 0, result.err
    assert read_checkpoint(LAST)["global_step"] == 14
    assert read_checkpoint(BEST)
    assert (RUN / "metrics.csv").read_text().count("\n") > 2
    assert RunMetadata.read(RUN).tested


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("path", [LAST, BEST], ids=["last", "best"])
def test_a_kill_while_saving_keeps_the_old_checkpoint(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    trained(*TINY)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: os._exit(9))
        if (child := os.fork()) == 0:
            save({"weights": torch.zeros(9)}, path)
        assert os.waitpid(child, 0)[1] == 9 << 8
    assert path.read_bytes() == before
    assert len(list(LAST.parent.glob(f".{path.name}.*"))) == 1
    assert kindling(*MORE).code == 0
    assert sorted(os.listdir(LAST.parent)) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_training_stops_at_once_if_a_checkpoint_is_not_writable(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trained(*TINY)
    before = different(LAST, BEST), LAST.read_bytes(), BEST.read_bytes()
    *figures, _ = (RUN / "metrics.csv").read_text().splitlines()  # without the test metrics
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    result = kindling(*MORE)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"can't write {RUN}/checkpoints/{name}: Permission denied" in result.err
    assert (different(LAST, BEST), LAST.read_bytes(), BEST.read_bytes()) == before or name == "best.ckpt"
    assert read_checkpoint(LAST)
    assert read_checkpoint(BEST)
    assert set(figures) <= set((RUN / "metrics.csv").read_text().splitlines())
    assert sorted(os.listdir(LAST.parent)) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_a_new_checkpoint_is_not_removed_under_another_path() -> None:
    save({"weights": torch.zeros(2)}, Path("other.ckpt"))
    files = AtomicCheckpointIO()
    files.save_checkpoint({"weights": torch.ones(2)}, "mine/best.ckpt")
    Path("link").symlink_to("mine")
    for name in ("./mine/best.ckpt", "link/best.ckpt", Path("mine/best.ckpt").absolute(), "other.ckpt", "missing.ckpt"):
        files.remove_checkpoint(name)
    assert Path("mine/best.ckpt").exists()
    assert not Path("other.ckpt").exists()


class Careless(TorchCheckpointIO):
    """A checkpoint plug-in that saves nothing."""

    def save_checkpoint(self, *_: object, **__: object) -> None:
        pass


def test_a_checkpoint_plugin_of_the_user_is_kept_and_checked() -> None:
    for chosen in (None, TorchCheckpointIO()):
        strategy = SingleDeviceStrategy(checkpoint_io=chosen)
        write_atomically(strategy, None)
        assert type(strategy.checkpoint_io) is AtomicCheckpointIO
    wrapped = AsyncCheckpointIO()
    write_atomically(SingleDeviceStrategy(checkpoint_io=wrapped), None)
    assert type(wrapped.checkpoint_io) is AtomicCheckpointIO
    strategy = SingleDeviceStrategy(checkpoint_io=Careless())
    write_atomically(strategy, None)
    for name in ("new.ckpt", "old.ckpt"):
        Path("old.ckpt").touch()
        with pytest.raises(OSError, match=rf"Careless has not written {name}"):
            strategy.save_checkpoint({}, name)


def test_a_checkpoint_plugin_that_writes_nothing_ends_the_run(kindling: Command) -> None:
    plugin = '[{"class_path": "test_checkpoints.Careless"}]'
    result = kindling("fit", *TINY, "--trainer.plugins", plugin)
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    assert "Careless has not written" in result.err
