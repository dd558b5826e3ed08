"""When new versions of models are found, and which ones workers serve that restart."""

import os
import shutil
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import uvicorn
from servers import train_versions
from uvicorn.config import STARTUP_FAILURE

from conftest import Train
from kindling.deploy import served_models, serving_process
from kindling.deploy.metrics import Metrics
from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor
from kindling.deploy.reloading import reload_model, watch
from kindling.deploy.serve import serve
from kindling.deploy.served_models import ServedModel, open_version, version_of
from kindling.deploy.serving_process import build_app, run_server, worker_app
from kindling.deploy.settings import SETTINGS, Settings
from kindling.deploy.sighup import has_terminal
from kindling.deploy.workers import Worker, Workers
from kindling.runs.metadata import RunMetadata
from kindling.runs.process import process_info


@pytest.fixture
def checkpoints(trained: Train) -> list[Path]:
    return train_versions(trained)


@pytest.fixture
def settings(checkpoints: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of a server with workers that has loaded the first checkpoint."""
    monkeypatch.setenv(SETTINGS, "")  # so that it is removed in the end
    monkeypatch.delenv(SETTINGS)
    shutil.copy(checkpoints[0], "m.ckpt")
    resolved = Settings({"m": "m.ckpt"}, 2, 4, 1000, "", 0.0).resolve()
    Path("shared").mkdir()
    found = replace(resolved, versions={"m": version_of(checkpoints[0])}, folder="shared")
    found.keep_copies()
    return found


def publish(source: Path | bytes) -> None:
    Path("new.ckpt").write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    Path("new.ckpt").replace("m.ckpt")


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_restarting_worker_does_not_serve_what_the_others_refuse(
    settings: Settings, checkpoints: list[Path], task: str
) -> None:
    publish(b"broken" if task == "classification" else checkpoints[1])
    accepted = settings.accept({"m": task}, ["m"])
    assert accepted.versions == settings.versions
    assert accepted.open("m")[0].card.task == "classification"


def test_a_restarting_worker_serves_the_accepted_version(settings: Settings, checkpoints: list[Path]) -> None:
    publish(checkpoints[1])
    accepted = settings.accept({"m": "classification"}, ["m"])
    assert accepted.versions == {"m": version_of(checkpoints[1])}
    publish(b"broken")
    again = accepted.accept({"m": "classification"}, ["m"])
    assert again.versions == accepted.versions
    assert again.open("m")[0].card.task == "classification"


def test_the_version_is_that_of_the_weights(
    settings: Settings, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Predictor] = []
    original = served_models.open_model

    def overwritten(path: Path) -> Predictor:
        opened.append(original(path))
        publish(checkpoints[1])
        return opened[-1]

    monkeypatch.setattr(served_models, "open_model", overwritten)
    predictor, version = open_version(Path("m.ckpt"))
    assert (predictor is opened[1], version) == (True, version_of(checkpoints[1]))


def test_watching_begins_with_the_files_from_before_loading(settings: Settings, checkpoints: list[Path]) -> None:
    publish(checkpoints[1])  # while the server starts
    found = threading.Event()
    with watch(replace(settings, watch_seconds=0.02), lambda names: found.set()):
        assert found.wait(10)


def test_a_missing_model_does_not_stop_the_reloads_of_others(settings: Settings, checkpoints: list[Path]) -> None:
    shutil.copy("m.ckpt", "gone.ckpt")
    both = replace(settings, models={"gone": "gone.ckpt", "m": "m.ckpt"}).resolve()
    found: list[str] = []
    with watch(replace(both, watch_seconds=0.02), found.extend):
        Path("gone.ckpt").unlink()
        publish(checkpoints[1])
        wait_for(lambda: bool(found))
    assert found == ["m"]


def test_a_run_that_is_training_is_taken_when_it_ends(
    settings: Settings, checkpoints: list[Path], folder: Path
) -> None:
    first, second = (folder / f"runs/r/version_{number}" for number in range(2))
    shutil.copytree(checkpoints[0].parents[1], first)
    metadata = RunMetadata.read(first)
    found: list[str] = []
    before = replace(settings, models={"m": "best"}).resolve()
    with watch(replace(before, watch_seconds=0.02), found.extend):
        second.mkdir()
        replace(metadata, status="running", process=process_info(second)).write(second)
        shutil.copytree(checkpoints[1].parent, second / "checkpoints")
        time.sleep(0.3)
        assert found == []
        replace(metadata, status="finished").write(second)
        wait_for(lambda: found == ["m"])


def test_a_replaced_file_may_be_older_than_the_test_metrics(
    settings: Settings, checkpoints: list[Path], folder: Path
) -> None:
    run = folder / "runs/r/version_0"
    shutil.copytree(checkpoints[0].parents[1], run)
    (run / "test_metrics.json").write_text("{}")
    before = replace(settings, models={"m": str(run)}).resolve()
    found: list[str] = []
    with watch(replace(before, watch_seconds=0.02), found.extend):
        os.utime(before.files["m"], (10**9, 10**9))
        wait_for(lambda: found == ["m"])


def test_test_metrics_that_are_written_later_are_shown(
    settings: Settings, checkpoints: list[Path], folder: Path
) -> None:
    run = folder / "runs/r/version_0"
    shutil.copytree(checkpoints[0].parents[1], run)
    single = replace(settings, models={"m": str(run)}, folder="").resolve()
    predictor, version = open_version(Path(single.files["m"]))
    model = ServedModel("m", predictor, Metrics(), version=version)
    found: list[str] = []
    with watch(replace(single, watch_seconds=0.02), found.extend):
        (run / "test_metrics.json").write_text('{"test/accuracy": 0.5}')
        wait_for(lambda: found == ["m"])
    assert not reload_model(model, single)
    assert model.current.predictor.card.metrics == {"test/accuracy": 0.5}


def test_workers_count_reloads_only_of_the_models_that_were_looked_for(
    settings: Settings, checkpoints: list[Path]
) -> None:
    for name in "ab":
        shutil.copy(checkpoints[0], f"{name}.ckpt")
    versions = dict.fromkeys("ab", settings.versions["m"])
    both = replace(settings, models={"a": "a.ckpt", "b": "b.ckpt"}, versions=versions).resolve()
    metrics = Metrics()
    models = [ServedModel(name, both.open(name)[0], metrics, version=versions[name]) for name in "ab"]
    Path("a.ckpt").write_bytes(b"broken")
    for names in ("a", "b", "b"):
        both = both.accept(dict.fromkeys("ab", "classification"), names)
        both.publish()
        for model in models:
            reload_model(model, both)
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("kindling_reloads_total")]
    assert lines == [
        'kindling_reloads_total{model="a",result="failed"} 1.0',
        'kindling_reloads_total{model="b",result="unchanged"} 2.0',
    ]


def test_a_server_without_sighup_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGHUP")
    predictor = Predictor(lambda inputs: inputs.sum(1), ModelCard("C", (), (2,), task="regression"))
    settings = Settings({"m": "m.onnx"}, 1, 4, 1000, "", 0.0, has_terminal(), versions={"m": "1"})
    assert build_app(settings, {"m": predictor}) is not None


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Starting:
    """A worker that has not started."""

    pid = 0
    exitcode = None

    def __init__(self) -> None:
        self.started = False

    def is_alive(self, timeout: float) -> bool:
        return True

    def is_ready(self, timeout: float) -> bool:
        return self.started


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the handlers of signals."""
    kept = {number: signal.getsignal(number) for number in signal.valid_signals() if number not in (9, 19)}
    yield
    for number, handler in kept.items():
        if handler is not None:
            signal.signal(number, handler)


def test_a_worker_that_starts_gets_its_signal_later_and_does_not_delay_others(
    settings: Settings, checkpoints: list[Path], handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(pid))
    workers = Workers(uvicorn.Config("x:y", workers=2), [], settings, {"m": "classification"})
    slow, quick = Starting(), Starting()
    slow.pid, quick.pid, quick.started = 1, 2, True
    workers.processes = [slow, quick]  # type: ignore[list-item]
    publish(checkpoints[1])
    workers.handle_hup()
    end = time.monotonic() + 30
    while not sent and time.monotonic() < end:
        workers.keep_subprocess_alive()
    assert sent == [2]
    assert Settings.published().versions == {"m": version_of(checkpoints[1])}
    slow.started = True
    workers.keep_subprocess_alive()
    workers.keep_subprocess_alive()
    assert sent == [2, 1]


def test_a_reload_that_cannot_be_kept_is_not_sent_to_workers(
    settings: Settings,
    checkpoints: list[Path],
    handlers: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A worker that restarts later would serve another version than the others."""
    settings.publish()
    workers = Workers(uvicorn.Config("x:y", workers=2), [], settings, {"m": "classification"})
    original = shutil.copyfile

    def copy(source: str, target: Path) -> None:
        original(source, target)
        raise OSError("no space left on device")

    monkeypatch.setattr("shutil.copyfile", copy)
    publish(checkpoints[1])
    workers.reload(["m"])
    workers.keep_subprocess_alive()
    workers._thread.shutdown()  # waits for the check
    workers.keep_subprocess_alive()
    assert f"m: still version {settings.versions['m']}: " in capfd.readouterr().err
    published = Settings.published()
    assert (published.versions, published.refused) == (settings.versions, ["m"])
    assert [path.name for path in Path("shared/models").iterdir()] == [f"{settings.versions['m']}.ckpt"]


def test_a_deleted_folder_of_copies_is_made_again(settings: Settings, checkpoints: list[Path]) -> None:
    shutil.rmtree("shared")
    publish(checkpoints[1])
    accepted = settings.accept({"m": "classification"}, ["m"])
    accepted.publish()
    assert Settings.published().versions == {"m": version_of(checkpoints[1])}
    assert accepted.open("m")[1] == version_of(checkpoints[1])


def test_an_error_of_the_main_process_ends_its_workers(
    settings: Settings, handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    class Fake(Starting):
        process = Mock(is_alive=Mock(return_value=False))

        def terminate(self) -> None:
            ended.append("terminated")

        def join(self) -> None:
            ended.append("joined")

        def is_alive(self, timeout: float) -> bool:
            raise RuntimeError("out of luck")

    with socket.socket() as listener:
        workers = Workers(uvicorn.Config("x:y", workers=1), [listener], settings, {})
        monkeypatch.setattr(workers, "init_processes", lambda: workers.processes.append(Fake()))  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="out of luck"):
            workers.run()
        assert (ended, listener.fileno()) == (["terminated", "joined"], -1)


def test_the_main_process_of_workers_keeps_no_models(
    settings: Settings, handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = settings.open("m")[0]
    kept = weakref.ref(predictor.compute)
    found: list[object] = []
    monkeypatch.setattr(Workers, "run", lambda self: found.append(kept()))
    before = dict(os.environ)
    run_server(settings, {"m": predictor}, "127.0.0.1", 0, Mock())
    assert found == [None]
    assert dict(os.environ) == before


@pytest.mark.parametrize("is_published", [True, False])
def test_a_worker_that_fails_to_start_prints_one_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], is_published: bool
) -> None:
    monkeypatch.setattr(serving_process, "exit_when_orphaned", lambda parent: None)
    monkeypatch.setattr(Settings, "open", lambda self, name: open_version(Path("nowhere.ckpt")))
    settings.publish()
    if not is_published:
        Path("shared/settings.json").unlink()
    with pytest.raises(SystemExit) as ended:
        worker_app()
    error = capfd.readouterr().err
    assert (ended.value.code, error.count("\n"), "a worker failed to start: " in error) == (STARTUP_FAILURE, 1, True)


def test_only_a_failure_of_the_first_workers_ends_the_server(settings: Settings, handlers: None) -> None:
    Workers(uvicorn.Config("x:y", workers=1), [], settings, {})
    first, second = (Worker.__new__(Worker) for _ in range(2))
    first.process = Mock(exitcode=STARTUP_FAILURE)
    second.process, (second.parent_conn, second.child_conn) = Mock(), Pipe()
    assert first.exitcode == STARTUP_FAILURE
    for is_ready in (False, True):
        second.child_conn.send(is_ready)
        assert second.is_alive()
        assert (first.exitcode == STARTUP_FAILURE) is not is_ready


def test_the_files_of_workers_are_written_again_if_they_were_deleted(settings: Settings, handlers: None) -> None:
    workers = Workers(uvicorn.Config("x:y", workers=1), [], settings, {})
    settings.publish()
    shutil.rmtree("shared")
    workers.keep_subprocess_alive()
    publish(b"broken")
    assert Settings.published().open("m")[1] == settings.versions["m"]


@pytest.mark.parametrize("starts", ["the server", "a worker"])
def test_models_are_opened_with_the_threads_of_a_worker(
    settings: Settings, handlers: None, monkeypatch: pytest.MonkeyPatch, starts: str
) -> None:
    """An ONNX file keeps the number of threads with which it was opened."""
    found: list[int] = []
    original = served_models.open_model

    def open_model(path: Path) -> Predictor:
        found.append(torch.get_num_threads())
        return original(path)

    monkeypatch.setattr(served_models, "open_model", open_model)
    monkeypatch.setattr(serving_process, "run_server", Mock())
    monkeypatch.setattr(serving_process, "exit_when_orphaned", Mock())
    threads = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        if starts == "the server":
            serve("m=m.ckpt", workers=2, port=0)
        else:
            settings.publish()
            worker_app()
        assert (found, torch.get_num_threads()) == ([3], 3)
    finally:
        torch.set_num_threads(threads)


def test_the_exit_code_says_that_no_worker_started(
    settings: Settings, handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(workers: Workers) -> None:
        workers.processes = [Mock(exitcode=None), Mock(exitcode=STARTUP_FAILURE)]

    monkeypatch.setattr(Workers, "run", run)
    with pytest.raises(SystemExit, match=str(STARTUP_FAILURE)):
        run_server(settings, {"m": settings.open("m")[0]}, "127.0.0.1", 0, Mock())


def test_the_end_of_a_worker_is_noticed_while_it_is_waited_for() -> None:
    worker = Worker.__new__(Worker)
    worker.parent_conn, worker.child_conn = Pipe()
    worker.process = Mock()
    worker.process.is_alive.return_value = False
    start = time.monotonic()
    assert not worker.ping(60)
    assert time.monotonic() - start < 10


def test_a_signal_is_noticed_while_a_worker_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker.__new__(Worker)
    worker.parent_conn, worker.child_conn = Pipe()
    worker.process = Mock()
    signals: list[int] = []
    monkeypatch.setattr(Worker, "signals", signals)
    threading.Timer(0.1, signals.append, [signal.SIGTERM]).start()
    start = time.monotonic()
    assert (worker.is_alive(60), worker.is_ready(60)) == (True, False)
    assert time.monotonic() - start < 10
    signals.clear()
    worker.child_conn.send(True)
    assert worker.is_ready(60)
    assert worker.child_conn.recv() == b"ping"
    assert not worker.child_conn.poll()  # a worker that is slow is asked once
