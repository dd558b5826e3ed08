"""The files that are written into a run folder, and the errors if it can't be written to."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from conftest import TINY, Command, Train

RUN = Path("runs/tiny/version_0")


def refuse(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.fixture
def read_only(trained: Train, monkeypatch: pytest.MonkeyPatch) -> dict[Path, bytes]:
    """Simulate a run on a read-only file system, and return the contents of its files."""
    trained(*TINY)
    monkeypatch.setattr("kindling.evaluation.result_files.write_json", refuse)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != RUN and access(path, mode))
    return contents()


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}


def test_a_read_only_run_is_tested(kindling: Command, read_only: dict[Path, bytes]) -> None:
    result = kindling("test", "--ckpt_path", RUN)
    assert result.code == 1
    assert "test/accuracy" in result.out
    assert result.err == (
        f"kindling: error: can't write to {RUN} (Read-only file system): copy it to a folder that can be written, and "
        "use the copy\n"
    )
    assert contents() == read_only


def test_a_read_only_run_is_validated(kindling: Command, read_only: dict[Path, bytes]) -> None:
    result = kindling("validate", "--ckpt_path", RUN)
    assert (result.code, result.err) == (0, "")
    assert "val/accuracy" in result.out


def test_predict_fails_at_once_in_a_read_only_run(
    kindling: Command, read_only: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kindling.models.task.BaseTask.predict_step", refuse)
    result = kindling("predict", "--ckpt_path", RUN)
    assert result.code == 1
    assert result.err.startswith(f"kindling: error: can't write to {RUN} (read-only): copy it")
    assert contents() == read_only


def test_a_full_disk_does_not_prevent_printing_the_test_results(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kindling.evaluation.result_files.write_json", full)
    result = kindling("test", "--ckpt_path", RUN)
    assert result.code == 1
    assert "test/accuracy" in result.out
    assert result.err.startswith(f"kindling: error: can't write to {RUN} (No space left on device): ")
