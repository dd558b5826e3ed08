"""How much memory requests may take together."""

import io
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from servers import app_of, serving_here
from torch import Tensor

from kindling.data.tables.rows import encode_rows
from kindling.deploy import request_bodies
from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor

CATEGORY = {"name": "c", "kind": "category", "values": ["a", "b"], "missing": False, "missing_values": []}


def halves(inputs: Tensor) -> Tensor:
    return torch.full((len(inputs), 2), 0.5)


def test_tensors_of_small_images_count(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go = threading.Event(), threading.Event()

    def compute(inputs: Tensor) -> Tensor:
        entered.set()
        go.wait(30)
        return halves(inputs)

    file = io.BytesIO()
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(file, "PNG")
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.png"\r\n\r\n' + file.getvalue() + b"\r\n"
    form = part * 4 + b"--b--\r\n"
    monkeypatch.setattr(request_bodies, "MAX_PENDING_BYTES", 4 * 3 * 64 * 64 * 4)  # less than twice what one takes
    answers: list[int] = []
    with serving_here(app_of(Predictor(compute, ModelCard("Slow", ("a", "b"), (3, 64, 64))))) as server:

        def ask() -> None:
            kind = {"Content-Type": "multipart/form-data; boundary=b"}
            answers.append(server.ask("POST", "/predict", form, kind)[0])

        first = threading.Thread(target=ask)
        first.start()
        assert entered.wait(30)
        ask()
        go.set()
        first.join()
        ask()
    assert answers == [503, 200, 200]


def test_rows_are_counted_before_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def encode(rows: Any, *more: Any) -> Any:
        encoded.append(len(rows))
        return encode_rows(rows, *more)

    monkeypatch.setattr("kindling.deploy.predictor.encode_rows", encode)
    with serving_here(app_of(Predictor(halves, ModelCard("T", ("a", "b"), (2,), [CATEGORY])))) as server:
        status, found = server.predict({"rows": [{"c": "a"}] * 4097})
        assert (status, found) == (413, {"error": "a request may have at most 4,096 samples, got 4,097"})
        assert encoded == []
        assert server.predict({"rows": [{"c": "a"}] * 4096})[0] == 200


def test_a_body_waits_for_a_limited_time_to_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go = threading.Semaphore(0), threading.Event()

    def decode(*inputs: Any) -> Tensor:
        entered.release()
        go.wait(30)
        return torch.zeros(1, 3, 4, 4)

    monkeypatch.setattr(request_bodies, "from_images", decode)
    monkeypatch.setattr(request_bodies, "MAX_WAITING_SECONDS", 0.1)
    with serving_here(app_of(Predictor(halves, ModelCard("P", ("a", "b"), (3, 4, 4))))) as server:
        threads = [threading.Thread(target=server.predict, args=(b"photo",)) for _ in range(2)]
        for thread in threads:
            thread.start()
            assert entered.acquire(timeout=30)
        status, found, headers = server.ask("POST", "/predict", b"photo")
        go.set()
        for thread in threads:
            thread.join()
        assert (status, "retry-after" in headers) == (503, True)
        assert found["error"].startswith("the request has waited for ")
        assert server.predict(b"photo")[0] == 200


def test_bodies_that_are_arriving_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "MAX_PENDING_BYTES", 100_000)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n"
    with serving_here(app_of(Predictor(halves, ModelCard("T", ("a", "b"), (2,))))) as server, ExitStack() as stack:
        first = stack.enter_context(socket.create_connection((server.host, server.port)))
        first.sendall(head + b" " * 60_000)
        time.sleep(0.3)
        second = stack.enter_context(socket.create_connection((server.host, server.port)))
        second.sendall(head + b" " * 60_000)
        second.settimeout(10)
        assert second.recv(12) == b"HTTP/1.1 503"
        stack.close()
        time.sleep(0.3)
        assert server.predict("{" + " " * 80_000 + '"inputs": [0, 1]}')[0] == 200  # nothing stays reserved
