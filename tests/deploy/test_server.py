import asyncio
import http.client
import io
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from fastapi import FastAPI
from hostile import bomb
from PIL import Image
from servers import Server, serving, serving_here
from starlette.requests import Request

from conftest import CONFIGS
from kindling import Predictor, load
from kindling.cli import main
from kindling.data.mnist import read_sample
from kindling.deploy.request_bodies import form_files
from kindling.deploy.serving_process import build_app
from kindling.deploy.settings import Settings

pytestmark = pytest.mark.xdist_group("server")  # one training and one server for all

JSON = {"Content-Type": "application/json"}
KEY = "a secret"


def train(folder: Path, name: str, *options: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        few = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "20", "--run_name", name)
        assert main(["fit", "--config", str(CONFIGS / f"{name}.yaml"), *options, *few]) == 0
    return folder / "runs" / name / "version_0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("trained"), "quickstart")


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return load(run)


def app(predictor: Predictor) -> FastAPI:
    """Return the application of `kindling serve` with its defaults."""
    settings = Settings({"default": "best"}, 1, 64, 10_000_000, "", 0.0, versions={"default": "1"})
    return build_app(settings, {"default": predictor})


@pytest.fixture(scope="module")
def server(predictor: Predictor) -> Iterator[Server]:
    with serving_here(app(predictor)) as server:
        yield server


@pytest.fixture(scope="module")
def process(run: Path) -> Iterator[Server]:
    """Return a server in another process, whose memory can be measured."""
    with serving("--ckpt_path", run) as server:
        yield server


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return read_sample("test")[0][::50]  # (20, 1, 28, 28) bytes


def png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "PNG")
    return file.getvalue()


def form(*files: bytes) -> tuple[bytes, str]:
    parts = (
        b'--X\r\nContent-Disposition: form-data; name="file"; filename="%d.png"\r\n\r\n%b\r\n' % (number, file)
        for number, file in enumerate(files)
    )
    return b"".join(parts) + b"--X--\r\n", "multipart/form-data; boundary=X"


def check(predictions: list[dict[str, Any]], predictor: Predictor, samples: Any) -> None:
    labels, probabilities = predictor.predict(samples)
    assert [said["class"] for said in predictions] == labels
    for said, row in zip(predictions, probabilities, strict=True):
        assert said["probability"] == pytest.approx(row.max(), abs=1e-5)
        ranked = sorted(enumerate(row), key=lambda item: -item[1])[: len(said["top"])]
        assert [entry["class"] for entry in said["top"]] == [predictor.card.classes[place] for place, _ in ranked]
        np.testing.assert_allclose(
            [entry["probability"] for entry in said["top"]], [value for _, value in ranked], atol=1e-5
        )


def test_responses_equal_the_predictions_of_the_checkpoint(
    server: Server, predictor: Predictor, digits: torch.Tensor
) -> None:
    numbers = (digits.float() / 255).tolist()
    for body, samples in (
        ({"inputs": numbers}, digits),
        ({"inputs": numbers[0]}, digits[:1]),
        ({"inputs": numbers[0][0]}, digits[:1]),
        (png(digits[3]), digits[3:4]),
    ):
        status, found = server.predict(body)
        assert status == 200, found
        check(found["predictions"], predictor, samples)
        assert len(found["predictions"][0]["top"]) == 5
    body, kind = form(*(png(digit) for digit in digits[:4]))
    status, found = server.predict(body, Content_Type=kind)
    assert status == 200, found
    check(found["predictions"], predictor, digits[:4])
    status, found = server.predict({"inputs": numbers[0]}, "/predict?top=10")
    assert sum(entry["probability"] for entry in found["predictions"][0]["top"]) == pytest.approx(1, abs=1e-5)


def test_requests_that_come_together_get_their_own_answers(
    server: Server, predictor: Predictor, digits: torch.Tensor
) -> None:
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        size = 1 + number % 3
        samples = (digits[number : number + size].float() / 255).tolist()
        found[number] = server.predict({"inputs": samples})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (status, answer) in found.items():
        assert status == 200
        check(answer["predictions"], predictor, digits[number : number + 1 + number % 3])


def test_health_and_info_say_what_is_there(server: Server, predictor: Predictor) -> None:
    assert server.ask("GET", "/health")[:2] == (200, {"status": "ok"})
    status, info, headers = server.ask("GET", "/info", headers={"Origin": f"http://127.0.0.1:{server.port}"})
    assert status == 200
    assert info["classes"] == list(predictor.card.classes)
    assert info["metrics"] == predictor.card.metrics
    assert info["takes"] == "images (PNG, JPEG, ...) of any size, or numbers of shape (1, 28, 28)"
    assert not {"target", "unit"} & {*info}
    assert "access-control-allow-origin" not in {name.lower() for name in headers}
    status, page, _ = server.ask("GET", "/")
    assert status == 200
    assert page.startswith("<!doctype html>")
    assert not re.search(r"(?:src|href)=.?https?:", page)  # it needs nothing from elsewhere


IMAGE = [[0.5] * 28] * 28
HOSTILE: dict[str, tuple[Any, int, str]] = {
    "empty": (b"", 400, "the body"),
    "no JSON": (b'{"inputs": [1, 2', 400, "the body is not valid JSON: line 1, column 17"),
    "deep": (b"[" * 100_000, 400, "the body is not valid JSON: it is nested too deeply"),
    "an array": (b"[1, 2]", 400, '"inputs"'),
    "no inputs": ({"input": [1]}, 400, '"inputs"'),
    "null": ({"inputs": None}, 400, "inputs must be numbers"),
    "text": ({"inputs": "seven"}, 400, "inputs must be numbers"),
    "texts": ({"inputs": [[["7"] * 28] * 28]}, 400, "inputs must be numbers"),
    "true": ({"inputs": [[[True] * 28] * 28]}, 400, "inputs must be numbers"),
    "ragged": ({"inputs": [[1, 2], [3]]}, 400, "inputs must be numbers"),
    "an object": ({"inputs": {"a": 1}}, 400, "inputs must be numbers"),
    "shape": ({"inputs": [IMAGE, IMAGE[:27]]}, 400, "inputs must be numbers"),
    "size": ({"inputs": [[0.5] * 27] * 27}, 400, "(1, 28, 28) or (N, 1, 28, 28), not (27, 27)"),
    "none": ({"inputs": []}, 400, "there are no samples"),
    "an empty object": ({"inputs": {}}, 400, "no text or object in the lists"),
    "NaN": (json.dumps({"inputs": IMAGE}).replace("0.5", "NaN", 1).encode(), 400, "NaN is not a number in JSON"),
    "infinite": (json.dumps({"inputs": IMAGE}).replace("0.5", "1e999", 1).encode(), 400, "finite"),
    "huge": (json.dumps({"inputs": IMAGE}).replace("0.5", "9" * 5000, 1).encode(), 400, "4300 digits"),
    "bytes": ({"inputs": [[255] * 28] * 28}, 400, "between 0 and 1"),
    "texts of all lengths": ({"inputs": ["x" * 1500] + [""] * 300_000}, 400, "inputs must be numbers"),
    "many images": ({"inputs": [[[0] * 28] * 28] * 4097}, 413, "at most 4,096 samples"),
    "rows": ({"rows": [{"age": 3}]}, 400, "not rows of a table"),
    "no rows": ({"rows": [3]}, 400, "not rows of a table"),
    "rows that are not even read": (b' {"rows" : [', 400, "not rows of a table"),
    "no JSON, and long": (b'{"inputs": [' + b"0," * 500_001, 400, "at line 1 column 1000014"),
    "no image": (b"this is no image", 400, "the body: "),
    "cut off": (png(torch.zeros(1, 28, 28, dtype=torch.uint8))[:40], 400, "the body: "),
    "a bomb": (bomb(), 400, "pixels"),
    "not UTF-8": (b'{"inputs": "\xff"}', 400, "not valid JSON"),
    "too long": (b" " * 10_000_001, 413, "longer than 10,000,000 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_input_is_refused_with_the_reason(server: Server, name: str) -> None:
    body, expected, words = HOSTILE[name]
    status, found = server.predict(body)
    assert status == expected, found
    assert words in found["error"]
    assert "\n" not in found["error"]
    assert "object at 0x" not in found["error"]


def test_bad_requests_are_refused_with_the_reason(server: Server) -> None:
    for method, path, expected, words in (
        ("GET", "/nowhere", 404, "GET /nowhere does not exist; available: POST /predict"),
        ("GET", "/predict", 405, "GET /predict does not exist"),
        ("DELETE", "/info", 405, "DELETE /info does not exist"),
        ("GET", "/../../etc/passwd", 404, "does not exist"),
        ("POST", "/predict?top=0", 400, "top must be a number from 1 to 9999, got 0"),
        ("POST", "/predict?top=many", 400, "top must be a number"),
        ("POST", "/models/nothing/predict", 404, "GET /models lists the models and their paths"),
        ("POST", f"/predict?top={'9' * 5000}", 400, "top must be a number"),
    ):
        status, found, _ = server.ask(method, path, "{}" if method == "POST" else None)
        assert status == expected
        assert words in found["error"]
    multipart = {"Content-Type": "multipart/form-data"}
    for body, headers, words in (
        (b"x", multipart, "boundary"),
        (form()[0], {"Content-Type": form()[1]}, "the form has no files"),
        (form(b"no image")[0], {"Content-Type": form()[1]}, "0.png: "),
        (form(*[b"x"] * 300)[0], {"Content-Type": form()[1]}, "files"),
    ):
        status, found, _ = server.ask("POST", "/predict", body, headers)
        assert status == 400, found
        assert words in found["error"]


def test_a_part_of_a_form_without_a_file_name_is_refused(server: Server) -> None:
    body = b'--X\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--X--\r\n'
    status, found = server.predict(body, Content_Type="multipart/form-data; boundary=X")
    assert (status, found["error"].partition(":")[0]) == (400, "the part image of the form has no file name")


def test_python_looks_up_no_charset_of_a_client(monkeypatch: pytest.MonkeyPatch, digits: torch.Tensor) -> None:
    used: list[str] = []

    def decode(text: bytes, charset: str) -> str:
        used.append(charset)
        return text.decode()

    monkeypatch.setattr("starlette.formparsers._user_safe_decode", decode)
    body, kind = form(png(digits[0]))

    async def receive() -> dict[str, Any]:
        return {}

    request = Request({"type": "http", "headers": [(b"content-type", f"{kind}; charset=made-up".encode())]}, receive)
    ((name, data),) = asyncio.run(form_files(request, body))
    assert (name, data, {*used}) == ("0.png", png(digits[0]), {"utf-8"})


def test_json_may_begin_with_a_byte_order_mark(server: Server) -> None:
    assert server.predict(b"\xef\xbb\xbf" + json.dumps({"inputs": IMAGE}).encode())[0] == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://elsewhere"}, {"Host": "elsewhere:8000"}, {"Host": "[::2"}])
def test_pages_from_elsewhere_may_not_ask(server: Server, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/info"), ("POST", "/predict")):
        status, found, _ = server.ask(method, path, json.dumps({"inputs": IMAGE}), headers)
        assert status == 403, found
    assert server.ask("GET", "/info", headers={"Host": f"localhost:{server.port}"})[0] == 200


@pytest.mark.slow
def test_small_malicious_bodies_take_little_memory(process: Server) -> None:
    """Peak memory of the process, before and after bodies that NumPy or Pillow would expand."""

    def peak() -> float:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1000

    process.predict({"inputs": [[IMAGE]] * 1000})
    before = peak()
    large = Image.new("RGBA", (7000, 7000))
    for kind in ("PNG", "WEBP"):
        file = io.BytesIO()
        large.save(file, kind)
        assert process.predict(file.getvalue())[0] == 400
    assert process.predict(HOSTILE["texts of all lengths"][0])[0] == 400
    assert peak() < before + 150


def test_a_body_without_a_length_is_cut_where_it_is_too_long(server: Server) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 100_000

    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    headers = {"Transfer-Encoding": "chunked"}
    connection.request("POST", "/predict", parts(), headers, encode_chunked=True)  # the rest is read and dropped
    response = connection.getresponse()
    assert (response.status, "longer than" in json.loads(response.read())["error"]) == (413, True)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.slow
def test_two_thousand_hostile_requests_leave_it_serving_in_the_same_memory(process: Server) -> None:
    bodies = [body for name, (body, status, _) in HOSTILE.items() if status == 400 and "all" not in name]
    for body in bodies * 10:  # what it keeps it has after these
        process.predict(body)
    before = process.memory()
    errors = []

    def ask(share: list[Any]) -> None:
        connection = http.client.HTTPConnection(process.host, process.port, timeout=60)
        for body in share:
            connection.request("POST", "/predict", json.dumps(body) if isinstance(body, dict) else body)
            response = connection.getresponse()
            if response.status != 400 or "error" not in json.loads(response.read()):
                errors.append(body)
        connection.close()

    many = [bodies[number % len(bodies)] for number in range(2000)]
    threads = [threading.Thread(target=ask, args=(many[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert process.memory() < before + 30
    assert process.predict({"inputs": IMAGE})[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_stops_accepts_no_connections(run: Path, workers: int) -> None:
    """A connection that waits in the queue of the socket would end without a response."""
    body = json.dumps({"inputs": IMAGE}).encode()
    with serving("--ckpt_path", run, "--workers", workers) as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:10])
        time.sleep(0.3)
        assert server.process
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2)
        with pytest.raises(ConnectionRefusedError):
            server.ask("GET", "/health")
        connection.send(body[10:])
        assert connection.getresponse().status == 200
        assert server.process.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_running_requests_are_finished_on_shutdown(run: Path) -> None:
    with serving("--ckpt_path", run) as server:
        body = json.dumps({"inputs": [[IMAGE]] * 1500})
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        connection.request("POST", "/predict", body)  # a second of work
        time.sleep(0.1)
        assert server.process
        server.process.send_signal(signal.SIGTERM)
        response = connection.getresponse()
        assert response.status == 200
        assert len(json.loads(response.read())["predictions"]) == 1500
        assert server.process.wait(30) in (0, -signal.SIGTERM)


def test_requests_need_the_key_in_the_environment(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINDLING_API_KEY", KEY)
    with serving_here(app(predictor)) as server:
        for sent, expected in (
            (None, 401),
            ("Bearer wrong", 401),
            (KEY, 401),
            (f"bearer {KEY}", 200),
            (f"Bearer {KEY}", 200),
        ):
            headers = {"Authorization": sent} if sent is not None else {}
            assert server.ask("GET", "/info", headers=headers)[0] == expected
            status, found, _ = server.ask("POST", "/predict", json.dumps({"inputs": IMAGE}), headers)
            assert status == expected
            assert expected == 200 or "Authorization: Bearer KEY" in found["error"]
        assert server.ask("GET", "/health")[0] == 200


@pytest.mark.slow
def test_an_exported_file_is_served_by_several_workers(
    run: Path, predictor: Predictor, digits: torch.Tensor, tmp_path: Path
) -> None:
    assert main(["export", "--ckpt_path", str(run), "--out", str(tmp_path / "digits.onnx")]) == 0
    with serving("--ckpt_path", tmp_path / "digits.onnx", "--workers", 2) as server:
        for _ in range(4):
            status, found = server.predict({"inputs": (digits.float() / 255).tolist()})
            assert status == 200
            check(found["predictions"], predictor, digits)
        info = server.ask("GET", "/info")[1]
        assert (info["model"], info["metrics"]) == ("CNNClassifier", predictor.card.metrics)
        workers = psutil.Process(server.pid).children()
        assert server.process
        server.process.kill()
        left = psutil.wait_procs(workers, timeout=20)[1]
        for worker in left:
            worker.kill()
        assert left == []


@pytest.mark.slow
def test_a_table_is_asked_by_the_names_of_its_columns(tmp_path: Path) -> None:
    rows = [f"{20 + row * 7 % 50},{('gold', 'basic')[row % 2]},{row * 7 % 50 > 20}" for row in range(100)]
    (tmp_path / "table.csv").write_text("\n".join(["age,plan,left", *rows]))
    run = train(tmp_path, "table_mlp", "--data.path", str(tmp_path / "table.csv"), "--data.target", "left")
    with serving("--ckpt_path", run) as server:
        asked = [{"age": 30, "plan": "gold"}, {"plan": "basic", "age": None}]
        status, found = server.predict({"rows": asked})
        assert status == 200, found
        check(found["predictions"], load(run), asked)
        for body, words in (
            ({"rows": [{"age": 30}]}, "lacks columns that the model was trained with: plan"),
            ({"rows": [{"age": "old", "plan": "gold"}]}, "must contain numbers, got old"),
            ({"rows": [{"age": [1], "plan": "gold"}]}, "the values of a row"),
            ({"rows": []}, "rows must be a list of objects"),
            ({"rows": [{str(number): 1} for number in range(3000)]}, "lacks columns"),
            (b'{"rows": [{"age": NaN, "plan": "gold"}]}', "NaN is not a number in JSON"),
            (b'{"rows": [{"age": 1e999, "plan": "gold"}]}', "must be finite"),
            (b'{"rows": [{"age": 1' + b"0" * 400 + b', "plan": "gold"}]}', "must be finite"),
            (
                png(torch.zeros(1, 2, 2, dtype=torch.uint8)),
                "takes rows with the columns age, plan, not images or other files: send JSON",
            ),
        ):
            status, found = server.predict(body)
            assert status == 400
            assert words in found["error"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--ckpt_path", "nowhere"], 1, "there is no checkpoint nowhere"),
        (["--host", "0.0.0.0"], 1, "set KINDLING_API_KEY to a secret"),
        (["--host", "no.such.host.invalid"], 1, "KINDLING_API_KEY"),
        (["--port", "99999"], 1, "port must be from 0 to 65535, got 99999"),
        ([], 1, "KINDLING_API_KEY must be ASCII"),
        (["--workers", "0"], 1, "workers must be from 1 to 65535, got 0"),
        (["--port", "x"], 2, "port: x is not int"),
        (["--ckpt_path", "gone.onnx"], 1, "gone.onnx not found: create it with `kindling export`"),
        (["--ckpt_path", "text.onnx"], 1, "text.onnx is damaged or not an ONNX file"),
    ],
)
def test_mistakes_at_the_start_are_said_in_one_line(
    kindling: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, words: str
) -> None:
    monkeypatch.setenv("KINDLING_API_KEY", "ключ" if words.endswith("ASCII") else "")
    Path("text.onnx").write_text("text")
    result = kindling("serve", *options)
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert words in result.err


@pytest.mark.slow
def test_predictions_of_a_diverged_model_are_refused(run: Path, tmp_path: Path) -> None:
    stored = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    for name, tensor in stored["state_dict"].items():
        if name.startswith("network") and tensor.is_floating_point():
            tensor.fill_(torch.nan)
    (tmp_path / "diverged/checkpoints").mkdir(parents=True)
    torch.save(stored, tmp_path / "diverged/checkpoints/best.ckpt")
    (tmp_path / "diverged/run.json").write_text("{}")  # makes it a run folder
    (tmp_path / "diverged/test_metrics.json").write_text('{"test/loss": null}')
    with serving("--ckpt_path", tmp_path / "diverged") as server:
        assert server.ask("GET", "/info")[1]["metrics"] == {"test/loss": None}
        status, found = server.predict({"inputs": IMAGE})
        assert (status, "diverged" in found["error"]) == (400, True)


def test_an_occupied_port_is_reported(kindling: Callable[..., Any], run: Path, server: Server) -> None:
    result = kindling("serve", "--ckpt_path", run, "--port", server.port)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"can't listen on 127.0.0.1, port {server.port}" in result.err
