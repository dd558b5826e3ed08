import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kindling.runs.find_checkpoint import find_checkpoint
from kindling.runs.folders import is_last, new_run, remove_folder, run_folder_of
from kindling.runs.run import find_runs
from kindling.utils.files import atomic_write


def checkpoint(path: str, age: int) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    os.utime(file, (1e9 - age, 1e9 - age))
    return file


def test_runs_are_numbered_in_order(folder: Path) -> None:
    assert [new_run("mine", folder).name for _ in range(11)] == [f"version_{number}" for number in range(11)]
    (folder / "mine/version_old").mkdir()
    assert new_run("mine", folder).name == "version_11"
    assert new_run("other", folder).name == "version_0"
    (folder / "mine/version_0").rmdir()
    assert new_run("mine", folder).name == "version_12"  # one more than the highest


def test_runs_that_start_at_once_get_folders_of_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # as if all looked before any started
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda _: new_run("mine", folder), range(64)))
    assert {run.name for run in runs} == {f"version_{number}" for number in range(64)}


def test_the_newest_run_is_the_one_trained_last() -> None:
    checkpoint("runs/a/version_0/checkpoints/best.ckpt", age=10)
    newest = checkpoint("runs/b/version_0/checkpoints/best.ckpt", age=1)
    checkpoint("runs/b/version_1/checkpoints/last.ckpt", age=5)
    last = checkpoint("runs/a/version_0/checkpoints/last.ckpt", age=3)
    with pytest.raises(FileNotFoundError, match=r"runs/b/version_0/checkpoints/last\.ckpt: choose .*, best\.ckpt"):
        find_checkpoint("last")  # not the one of an older run
    assert find_checkpoint("best") == newest
    assert find_checkpoint("runs/a") == Path("runs/a/version_0/checkpoints/best.ckpt")
    assert find_checkpoint("runs/a/version_0", prefer="last") == last
    Path("runs").rename("elsewhere")
    assert find_checkpoint("best", root=Path("elsewhere")) == Path("elsewhere", *newest.parts[1:])
    Path("elsewhere").rename("runs")
    assert find_checkpoint(last) == last


@pytest.mark.parametrize("where", ["best", "last", "runs/a", "nowhere", "nowhere/best.ckpt"])
def test_a_missing_checkpoint_is_named(where: str) -> None:
    Path("runs/a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=where):
        find_checkpoint(where)


def test_the_run_of_a_checkpoint() -> None:
    path = checkpoint("runs/a/version_0/checkpoints/last.ckpt", age=1)
    assert run_folder_of(path) == path.with_suffix("")  # the folder of a project may be called checkpoints too
    assert not is_last(path)
    Path("runs/a/version_0/run.json").touch()
    assert run_folder_of(path) == Path("runs/a/version_0")
    assert is_last(path)
    assert run_folder_of(Path("downloads/model.ckpt")) == Path("downloads/model")
    assert run_folder_of(Path("downloads/model")) == Path("downloads/model_results")


def test_links_in_a_project_around_a_checkpoint_are_allowed(folder: Path) -> None:
    path = checkpoint("project/checkpoints/model.ckpt", age=1)
    for link in ("project/.venv/bin/python", "project/data"):
        Path(link).parent.mkdir(parents=True, exist_ok=True)
        Path(link).symlink_to(Path("/usr"))
    assert find_checkpoint(path) == path
    Path("project/data").unlink()
    Path("project/config.yaml").touch()  # a run, with an environment inside
    assert find_checkpoint(path) == path
    Path("project/export").symlink_to(Path("/usr"))
    with pytest.raises(ValueError, match="project/export is a link out of a run folder"):
        find_checkpoint(path)


def test_a_project_is_not_a_run_but_contains_runs() -> None:
    checkpoint("project/checkpoints/model.ckpt", age=1)
    for run in ("project/runs/a/version_0", "project/.venv/a"):
        Path(run).mkdir(parents=True)
        Path(run, "run.json").touch()
    assert find_runs(Path("project")) == [Path("project/runs/a/version_0")]


def test_a_file_is_written_completely_or_not_at_all(folder: Path) -> None:
    target = folder / "table.csv"
    target.write_text("old")
    with pytest.raises(TypeError), atomic_write(target) as path, path.open("w") as file:
        file.writelines(["half", 3])  # type: ignore[list-item]
    assert target.read_text() == "old"
    with atomic_write(target) as path:
        path.write_text("new")
    assert target.read_text() == "new"
    assert sorted(os.listdir()) == ["configs", "table.csv"]


def test_a_removed_folder_takes_empty_ones_along_but_none_outside_of_runs(folder: Path) -> None:
    for run in (Path("runs/a/version_0"), folder / "mine/a/version_0"):
        run.mkdir(parents=True)
        remove_folder(run)
    assert not Path("runs").exists()
    assert (folder / "mine/a").is_dir()
