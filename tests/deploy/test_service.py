"""What others build on: metrics, access log, probes, several models, and reloads."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from servers import Server, app_of, service_of, serving, serving_here, train_versions
from torch import Tensor

from conftest import Train
from kindling.deploy import batching
from kindling.deploy import server as server_module
from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor

pytestmark = pytest.mark.xdist_group("server")


def constant(value: float, **more: Any) -> Predictor:
    """Return a regression model that predicts the sum of two numbers plus a constant."""
    card = ModelCard("Constant", (), (2,), **({"task": "regression"} | more))
    return Predictor(lambda inputs: inputs.sum(1) + value, card)


def failing(error: Exception) -> Predictor:
    def compute(inputs: Tensor) -> Tensor:
        raise error

    return Predictor(compute, ModelCard("Failing", (), (2,), task="regression"))


def metrics(server: Server, **headers: str) -> dict[tuple[str, ...], float]:
    """Return the samples of /metrics by name and the values of the labels, which are in alphabetical order."""
    status, text, _ = server.ask("GET", "/metrics", headers=headers)
    assert status == 200
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_metrics_count_requests_batches_and_versions() -> None:
    with serving_here(app_of(constant(1))) as server:
        for count in (1, 3, 3):
            assert server.predict({"inputs": [[0, 1]] * count})[0] == 200
        assert server.predict({"inputs": "x"})[0] == 400
        for path in ("/nowhere", "/elsewhere"):
            assert server.ask("GET", path)[0] == 404
        found = metrics(server)
    assert found["kindling_requests_total", "200", "/predict"] == 3
    assert found["kindling_requests_total", "400", "/predict"] == 1
    assert found["kindling_requests_total", "404", "other"] == 2  # not one series for each path
    assert found["kindling_request_seconds_count", "/predict"] == 4
    assert 0 < found["kindling_request_seconds_sum", "/predict"] < 5
    assert found["kindling_batch_samples_count", "default"] == 3
    assert found["kindling_batch_samples_sum", "default"] == 7
    assert found["kindling_batch_samples_bucket", "1.0", "default"] == 1
    assert found["kindling_batch_samples_bucket", "4.0", "default"] == 3
    assert found["kindling_waiting_requests", "default"] == 0
    assert found["kindling_model_info", "default", "Constant", "1"] == 1
    assert found["process_resident_memory_bytes",] > 1e6


def test_waiting_requests_are_a_metric() -> None:
    entered, go = threading.Event(), threading.Event()

    def compute(inputs: Tensor) -> Tensor:
        entered.set()
        go.wait(30)
        return inputs.sum(1)

    card = ModelCard("Slow", (), (2,), task="regression")
    with serving_here(app_of(Predictor(compute, card))) as server:
        threads = [threading.Thread(target=server.predict, args=({"inputs": [0, 1]},)) for _ in range(4)]
        threads[0].start()
        assert entered.wait(30)
        for thread in threads[1:]:
            thread.start()
        for _ in range(200):
            if (waiting := metrics(server)["kindling_waiting_requests", "default"]) == 3:
                break
            time.sleep(0.02)
        go.set()
        for thread in threads:
            thread.join()
        assert waiting == 3
        assert metrics(server)["kindling_waiting_requests", "default"] == 0


def test_each_request_is_a_line_of_the_access_log(folder: Path) -> None:
    with serving_here(app_of(constant(1), access_log="access.log")) as server:
        sent = {"X-Request-ID": "order-66"}
        assert server.ask("POST", "/predict", '{"inputs": [[0, 1], [2, 3]]}', sent)[2]["x-request-id"] == "order-66"
        forged = {"X-Request-ID": 'a" b'}
        _, answer, headers = server.ask("POST", "/predict?top=0", "{}", forged)
        drawn = headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{16}", drawn)
        server.ask("HEAD", "/health")
    first, second, third = map(json.loads, Path("access.log").read_text().splitlines())
    assert (first["request_id"], first["status"], first["samples"]) == ("order-66", 200, 2)
    assert (first["method"], first["path"], first["client"]) == ("POST", "/predict", "127.0.0.1")
    assert (first["model"], 0 < first["ms"] < 5000) == ("default", True)
    assert (second["request_id"], second["status"], second["error"]) == (drawn, 400, answer["error"])
    assert (third["method"], third["status"], "model" in third) == ("HEAD", 200, False)


def test_a_failing_access_log_does_not_fail_requests(caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with serving_here(app_of(constant(1), access_log="/dev/full")) as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
        for _ in range(3):
            connection.request("GET", "/health")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b'{"status":"ok"}')
            assert connection.sock is not None  # still open
        connection.close()
    assert [record.message.partition(":")[0] for record in caplog.records] == ["the access log /dev/full is incomplete"]


def test_an_access_log_that_was_renamed_is_begun_anew(folder: Path) -> None:
    with serving_here(app_of(constant(1), access_log="access.log")) as server:
        server.ask("GET", "/health")
        wait_until(lambda: Path("access.log").exists() and "/health" in Path("access.log").read_text())
        Path("access.log").rename("access.log.1")
        server.ask("GET", "/models")
    paths = [json.loads(Path(name).read_text())["path"] for name in ("access.log.1", "access.log")]
    assert paths == ["/health", "/models"]


def test_an_internal_error_names_its_request(caplog: pytest.LogCaptureFixture) -> None:
    with serving_here(app_of(failing(RuntimeError("out of luck")))) as server:
        status, found, headers = server.ask("POST", "/predict", '{"inputs": [0, 1]}')
    assert (status, found["error"].count("\n")) == (500, 0)
    assert headers["x-request-id"] in found["error"]
    assert "luck" not in found["error"]
    assert any(headers["x-request-id"] in record.message and record.exc_info for record in caplog.records)


@pytest.mark.parametrize("broken", [failing(RuntimeError("no memory\nleft")), constant(float("nan"))])
def test_a_server_is_alive_but_not_ready_while_its_model_fails(broken: Predictor) -> None:
    with serving_here(service_of({"good": constant(1), "bad": broken}, key="secret").app()) as server:
        assert server.ask("GET", "/health")[:2] == (200, {"status": "ok"})
        status, found, _ = server.ask("GET", "/ready")
        assert (status, "bad" in found["error"], "\n" in found["error"]) == (503, False, False)
    with serving_here(app_of(constant(1), key="secret")) as server:
        assert server.ask("GET", "/ready")[:2] == (200, {"status": "ready"})
        assert server.ask("GET", "/metrics")[0] == 401
        assert server.ask("GET", "/openapi.json")[0] == 401
        assert metrics(server, Authorization="Bearer secret")["kindling_requests_total", "401", "/metrics"] == 1


def test_a_probe_computes_each_model_once_and_is_not_counted() -> None:
    computed: list[int] = []

    def compute(inputs: Tensor) -> Tensor:
        computed.append(len(inputs))
        return inputs.sum(1)

    with serving_here(app_of(Predictor(compute, ModelCard("Counted", (), (2,), task="regression")))) as server:
        assert server.ask("GET", "/ready")[0] == 200
        assert computed == [1]
        assert metrics(server).get(("kindling_batch_samples_count", "default"), 0) == 0


def test_a_full_queue_is_busy_not_broken(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING", 0)
    with serving_here(app_of(constant(1))) as server:
        status, found, headers = server.ask("GET", "/ready")
    assert (status, "busy" in found["error"], "retry-after" in headers) == (503, True, True)
    assert caplog.records == []


def test_an_error_of_the_model_is_not_one_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    with serving_here(app_of(failing(ValueError("shapes differ")))) as server:
        status, found = server.predict({"inputs": [0, 1]})
    assert (status, found["error"].partition(":")[0]) == (500, "internal error")
    assert "shapes differ" in caplog.text


def test_a_prediction_that_overflows_is_refused() -> None:
    with serving_here(app_of(constant(0))) as server:
        status, found = server.predict({"inputs": [3e38, 3e38]})
    expected = "the prediction is not finite: the inputs are too large, or the model diverged"
    assert (status, found["error"]) == (400, expected)


@pytest.mark.parametrize(
    ("task", "positions", "samples", "top", "expected"),
    [
        ("classification", (), 200, 500, 200),
        ("classification", (), 201, 500, 413),
        ("classification", (), 4096, 1, 200),
        ("classification", (50,), 4, 500, 200),
        ("classification", (50,), 5, 500, 413),
        ("multilabel", (), 100, 500, 200),  # predicts all of the classes that it lists
        ("multilabel", (), 101, 500, 413),
        ("multilabel", (), 200, 1, 413),
    ],
)
def test_the_size_of_a_response_is_limited(
    task: Any, positions: tuple[int, ...], samples: int, top: int, expected: int
) -> None:
    names = tuple(f"class {number}" for number in range(500))
    card = ModelCard("M", names, (2,), task=task)
    predictor = Predictor(lambda inputs: torch.full((len(inputs), 500, *positions), 0.9), card)
    with serving_here(app_of(predictor)) as server:
        status, found = server.predict({"inputs": [[0, 1]] * samples}, f"/predict?top={top}")
    assert status == expected
    assert status == 200 or "at most 100,000: send fewer samples, or ask for fewer classes" in found["error"]


def test_a_slow_model_is_not_ready(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(server_module, "PROBE_SECONDS", 0.2)
    go = threading.Event()

    def compute(inputs: Tensor) -> Tensor:
        go.wait(30)
        return inputs.sum(1)

    slow = Predictor(compute, ModelCard("Slow", (), (2,), task="regression"))
    with serving_here(service_of({"a": slow, "b": slow}).app()) as server:
        status, found, headers = server.ask("GET", "/ready")
        go.set()
    assert (status, "within 0.2 s" in found["error"], "retry-after" in headers) == (503, True, True)
    assert {record.message.partition(":")[0] for record in caplog.records} == {
        f"model {name} is not ready" for name in "ab"
    }


def test_several_models_answer_under_their_names() -> None:
    models = {"plus-one": constant(1), "plus_two": constant(2, unit="kg")}
    with serving_here(service_of(models).app()) as server:
        for path, value in (("", 4), ("/models/plus-one", 4), ("/models/plus_two", 5)):
            status, found = server.predict({"inputs": [1, 2]}, f"{path}/predict")
            assert (status, found) == (200, {"predictions": [{"value": value}]})
        assert server.ask("GET", "/models/plus_two/info")[1]["unit"] == "kg"
        assert server.ask("GET", "/models/plus_two/")[1].startswith("<!doctype html>")
        listed = server.ask("GET", "/models")[1]["models"]
        assert [each["name"] for each in listed] == [*models]
        assert [server.ask("GET", f"{each['path']}/info")[1]["name"] for each in listed] == [*models]
        for method, path in (("POST", "/models/plus/predict"), ("GET", "/models/plus_two")):
            status, found, _ = server.ask(method, path)
            assert (status, f"{method} {path} does not exist" in found["error"]) == (404, True)
        found = metrics(server)
        assert found["kindling_batch_samples_count", "plus-one"] == 2
        assert found["kindling_requests_total", "200", "/models/plus_two/predict"] == 1


def test_running_requests_end_with_the_version_they_began_with() -> None:
    entered, go = threading.Event(), threading.Event()

    def compute(inputs: Tensor) -> Tensor:
        entered.set()
        go.wait(30)
        return inputs.sum(1) + 1

    service = service_of({"default": Predictor(compute, ModelCard("Constant", (), (2,), task="regression"))})
    answers: list[Any] = []
    with serving_here(service.app()) as server:
        thread = threading.Thread(target=lambda: answers.append(server.predict({"inputs": [0, 0]})))
        thread.start()
        assert entered.wait(30)
        model = service.prefixes[""]
        model.replace(constant(2), "2")
        assert server.predict({"inputs": [0, 0]}) == (200, {"predictions": [{"value": 2}]})
        go.set()
        thread.join()
        assert answers == [(200, {"predictions": [{"value": 1}]})]
        assert server.ask("GET", "/info")[1]["version"] == "2"
        found = metrics(server)
        assert ("kindling_model_info", "default", "Constant", "1") not in found
        assert found["kindling_model_info", "default", "Constant", "2"] == 1
        with pytest.raises(ValueError, match="is for classification, but this server serves regression: restart"):
            model.replace(Predictor(compute, ModelCard("Other", ("a", "b"), (2,))), "3")


@pytest.fixture
def checkpoints(trained: Train) -> list[Path]:
    return train_versions(trained)


class Clients:
    """Clients that ask without a pause over open connections, and count the answers by status and probability."""

    def __init__(self, server: Server, body: str, number: int = 3) -> None:
        self.server, self.body, self.ended = server, body, threading.Event()
        self.answers: dict[tuple[int, float], int] = {}
        self.errors: list[Exception] = []
        self.threads = [threading.Thread(target=self.ask) for _ in range(number)]

    def ask(self) -> None:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        try:
            while not self.ended.is_set():
                connection.request("POST", "/predict", self.body)
                response = connection.getresponse()
                answer = json.loads(response.read())
                key = response.status, round(answer["predictions"][0]["probability"], 6)
                self.answers[key] = self.answers.get(key, 0) + 1
        except Exception as error:
            self.errors.append(error)
        finally:
            connection.close()

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("workers", "watched"),
    [
        (1, False),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(2, False, marks=pytest.mark.slow),
    ],
)
def test_a_new_checkpoint_is_loaded_without_a_lost_request(
    checkpoints: list[Path], folder: Path, workers: int, watched: bool
) -> None:
    for name in ("a", "b"):
        shutil.copy(checkpoints[0], f"{name}.ckpt")
    options: list[Any] = ["a=a.ckpt", "b=b.ckpt", "--workers", workers, *(["--watch_seconds", 0.2] if watched else [])]

    def publish(source: Path | None) -> None:
        Path("new.ckpt").write_bytes(source.read_bytes() if source else b"broken")
        os.replace("new.ckpt", "a.ckpt")
        if not watched:
            os.kill(server.pid, signal.SIGHUP)

    with serving(*options) as server:
        count = server.ask("GET", "/info")[1]["input_shape"][0]
        body = json.dumps({"inputs": [[0.5] * count]})
        with Clients(server, body) as clients:
            wait_until(lambda: len(clients.answers) == 1)
            first = metrics_of_versions(server)
            publish(checkpoints[1])
            wait_until(lambda: len(clients.answers) == 2)
            wait_until(lambda: reloads(server).get(("a", "loaded")) == workers)
            publish(None)
            wait_until(lambda: reloads(server).get(("a", "failed")) == workers)
            settled = dict(clients.answers)
            wait_until(lambda: sum(clients.answers.values()) > sum(settled.values()) + 20)
        assert clients.errors == []
        assert {status for status, _ in clients.answers} == {200}
        growing = [key for key, number in clients.answers.items() if number > settled[key]]
        assert len(growing) == 1  # only the new version, on all workers
        second = metrics_of_versions(server)
        versions = [key for key in metrics(server) if key[0] == "kindling_model_info"]
        assert len(versions) == 2  # not those of before
        assert (first["a"] == first["b"], second["b"] == first["b"], second["a"] != first["a"]) == (True, True, True)
        assert server.ask("GET", "/models")[1]["models"][0]["version"] == second["a"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_closing_the_terminal_ends_the_server(checkpoints: list[Path], workers: str) -> None:
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))  # not on Windows
    terminal, inner = pty.openpty()
    command = [sys.executable, "-m", "kindling", "serve", "--ckpt_path", str(checkpoints[0]), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--workers", workers],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(inner)
    try:
        printed = b""
        while not (found := re.search(rb"http://127.0.0.1:(\d+)/", printed)):
            printed += os.read(terminal, 1000)
        server = Server(None, "127.0.0.1", int(found[1]))
        wait_until(lambda: is_up(server))
        os.close(terminal)
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_under_load(checkpoints: list[Path]) -> None:
    with serving("--ckpt_path", checkpoints[0], "--workers", 2) as server:
        body = json.dumps({"inputs": [[0.5] * server.ask("GET", "/info")[1]["input_shape"][0]]})
        workers = [child for child in psutil.Process(server.pid).children() if is_worker(child)]
        assert len(workers) == 2
        with Clients(server, body, 6) as clients:
            wait_until(lambda: len(clients.answers) == 1)
            workers[0].kill()
            for _ in range(50):  # the files of its metrics are removed meanwhile, by whichever worker is asked
                with suppress(ConnectionError):  # waited for the worker that was killed
                    assert metrics(server)
        with Clients(server, body) as others:  # the worker that was killed may have had all of the first ones
            wait_until(lambda: sum(others.answers.values()) > 20)
        assert {status for status, _ in (*clients.answers, *others.answers)} == {200}
        assert all(isinstance(error, ConnectionError | http.client.HTTPException) for error in clients.errors)
        wait_until(lambda: len([each for each in psutil.Process(server.pid).children() if is_worker(each)]) == 2)
        assert workers[0].pid not in {each.pid for each in psutil.Process(server.pid).children()}
        assert server.predict(body)[0] == 200


@pytest.mark.slow
def test_a_killed_worker_is_replaced_after_the_temporary_folder_was_cleaned(checkpoints: list[Path]) -> None:
    with serving("--ckpt_path", checkpoints[0], "--workers", 2) as server:

        def running() -> list[psutil.Process]:
            return [child for child in psutil.Process(server.pid).children() if is_worker(child)]

        wait_until(lambda: len(running()) == 2)
        time.sleep(2)
        killed = running()[0]
        shutil.rmtree(Path(killed.environ()["KINDLING_SERVE"]).parent)
        killed.kill()
        killed.wait(30)
        wait_until(lambda: len(running()) == 2)
        replaced = running()
        time.sleep(5)
        assert running() == replaced
        metrics(server)  # checks that it responds


@pytest.mark.slow
def test_a_hanging_worker_hardly_delays_the_end_of_the_server(checkpoints: list[Path]) -> None:
    with serving("--ckpt_path", checkpoints[0], "--workers", 2) as server:
        assert server.process
        workers = [child for child in psutil.Process(server.pid).children() if is_worker(child)]
        workers[0].suspend()
        time.sleep(2)  # the main process waits for its sign of life
        start = time.monotonic()
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert time.monotonic() - start < 50  # 30 for the requests that a hanging worker may still answer
        assert psutil.wait_procs(workers, timeout=1)[1] == []


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and any("spawn_main" in word for word in process.cmdline())
    return False


@pytest.mark.slow
def test_standard_output_contains_only_the_access_log(checkpoints: list[Path], folder: Path) -> None:
    shutil.copy(checkpoints[0], "m.ckpt")
    command = [sys.executable, "-m", "kindling", "serve", "--ckpt_path", "m.ckpt", "--port", "0", "--access_log", "-"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        address = next(found for line in process.stderr if (found := re.search(r"http://127.0.0.1:(\d+)/", line)))
        server = Server(None, "127.0.0.1", int(address[1]))
        wait_until(lambda: is_up(server))
        Path("new.ckpt").write_bytes(checkpoints[1].read_bytes())
        Path("new.ckpt").replace("m.ckpt")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(server).get(("default", "loaded")) == 1)
        process.terminate()
        lines = process.communicate(timeout=30)[0].splitlines()
    finally:
        process.kill()
    assert {json.loads(line)["path"] for line in lines} == {"/health", "/metrics"}


def is_up(server: Server) -> bool:
    try:
        return server.ask("GET", "/health")[0] == 200
    except OSError:
        return False


def metrics_of_versions(server: Server) -> dict[str, str]:
    found = metrics(server)
    return {key[1]: key[3] for key in found if key[0] == "kindling_model_info"}


def reloads(server: Server) -> dict[tuple[str, str], float]:
    return {(key[1], key[2]): value for key, value in metrics(server).items() if key[0] == "kindling_reloads_total"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["runs/a"], "give a model as NAME=CHECKPOINT, its name of letters, digits, - and _; got runs/a"),
        (["a/b=best"], "got a/b=best"),
        (["a=", "b=best"], "got a="),
        (["a=nowhere", "a=nowhere"], "two models have the name a"),
        (["a=nowhere"], "there is no checkpoint nowhere"),
        (["a=best", "--ckpt_path", "last"], "not both: a=best, last"),
        (["--watch_seconds", "-1"], "watch_seconds must"),
        (["--max_mb", "0"], "max_mb must be positive and finite, got 0"),
        (["--max_mb", ".inf"], "max_mb must be positive and finite, got inf"),
        (["--access_log", "no/such/folder/log"], "no/such/folder"),
    ],
)
def test_mistakes_in_names_are_one_line(kindling: Callable[..., Any], words: list[str], error: str) -> None:
    result = kindling("serve", *words)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert error in result.err
