"""What connections may do before the key is checked, and how they go on after a request was refused."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from fastapi import FastAPI, Response
from servers import Server, app_of, serving_here
from torch import Tensor

from kindling.deploy import gateway, http_protocol, request_bodies
from kindling.deploy.http_protocol import MAX_HEAD_BYTES, LimitedProtocol
from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor

PREDICT = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
VALID = b'{"inputs": [1, 2]}'


def total(inputs: Tensor) -> Tensor:
    return inputs.sum(1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.5)
    card = ModelCard("Sum", (), (2,), task="regression")
    with serving_here(app_of(Predictor(total, card), max_bytes=1000)) as server:
        yield server


@pytest.fixture
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        yield connection


def read_response(connection: socket.socket) -> tuple[int, Any, bytes]:
    """Return the status, the JSON and the head of a response."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(10_000)
        assert part, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(10_000)
    return int(head[9:12]), json.loads(body), head.lower()


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nA: ", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_is_limited_to_64_kib(connection: socket.socket, start: bytes) -> None:
    connection.sendall(start)
    time.sleep(0.05)
    connection.sendall(b"x" * (MAX_HEAD_BYTES - len(start)))
    time.sleep(0.05)
    connection.sendall(b"x")
    status, found, _ = read_response(connection)
    assert (status, found) == (431, {"error": "the URL and the headers are longer than 65,536 bytes"})
    assert is_closed(connection)


def test_a_long_head_and_a_body_in_one_part_are_read(connection: socket.socket) -> None:
    head = PREDICT % len(VALID) + b"A: "
    connection.sendall(head + b"a" * (MAX_HEAD_BYTES - len(head) - 4) + b"\r\n\r\n" + VALID)
    for _ in range(2):
        assert read_response(connection)[:2] == (200, {"predictions": [{"value": 3}]})
        connection.sendall(PREDICT % len(VALID) + b"\r\n" + VALID)


@pytest.mark.parametrize("size", [3, 7, 100_000])
@pytest.mark.parametrize(
    "offer",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
        b"UPGRADE: websocket\r\nConnection: upgrade\r\n",
    ],
)
def test_an_offer_of_another_protocol_is_ignored(connection: socket.socket, offer: bytes, size: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    post = PREDICT % len(VALID) + offer + b"\r\n" + VALID
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + offer + b"\r\n"
    for sent, expected in ((post, {"predictions": [{"value": 3}]}), (get, {"status": "ok"})) * 2:
        for start in range(0, len(sent), size):
            connection.sendall(sent[start : start + size])
            time.sleep(0.0002 if size < 100 else 0)
        assert read_response(connection)[:2] == (200, expected)


def test_a_body_keeps_lines_that_look_like_headers(connection: socket.socket) -> None:
    body = b'{"inputs":\nUpgrade: x\n\nu'
    for head, rest in ((b"\r\n" + body[:-1], b"u"), (b"", b"\r\n" + body), (b"\r", b"\n" + body)):
        connection.sendall(PREDICT % len(body) + head)
        time.sleep(0.05)
        connection.sendall(rest)
        status, found, _ = read_response(connection)
        assert (status, "line 2, column 1;" in found["error"]) == (400, True)


def test_pipelined_requests_are_read_however_they_are_cut(connection: socket.socket) -> None:
    both = (PREDICT % len(VALID) + b"\r\n" + VALID) * 2
    for cut in range(len(both) // 2, len(both), 5):
        connection.sendall(both[:cut])
        time.sleep(0.001)
        connection.sendall(both[cut:])
        received = b""
        while received.count(b"predictions") < 2 or not received.endswith(b"]}"):
            received += connection.recv(10_000)
        assert received.count(b"HTTP/1.1 200 ") == 2


def test_what_is_not_http_is_refused_as_json(connection: socket.socket) -> None:
    connection.sendall(b"nonsense\r\n\r\n")
    assert read_response(connection)[:2] == (400, {"error": "the request is not valid HTTP"})
    assert is_closed(connection)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost:"])
def test_a_connection_without_a_complete_head_is_closed(connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    start = time.monotonic()
    assert is_closed(connection)
    assert 0.3 < time.monotonic() - start < 5


@pytest.mark.parametrize("start", [b"POST /predict HTTP/1.1\r\nA", b"P"])
def test_a_part_of_a_head_behind_a_request_is_not_awaited_for_long(connection: socket.socket, start: bytes) -> None:
    connection.sendall(PREDICT % len(VALID) + b"\r\n" + VALID + start)
    assert read_response(connection)[0] == 200
    began = time.monotonic()
    connection.settimeout(3)
    assert is_closed(connection)
    assert time.monotonic() - began > 0.3


def test_a_pipelined_head_is_limited(connection: socket.socket) -> None:
    connection.sendall(PREDICT % len(VALID) + b"\r\n" + VALID + b"GET /")
    assert read_response(connection)[0] == 200
    connection.sendall(b"x" * MAX_HEAD_BYTES)
    time.sleep(0.05)
    connection.sendall(b"x")
    assert read_response(connection)[0] == 431


def test_a_trickle_after_a_refused_request_does_not_keep_the_connection(connection: socket.socket) -> None:
    connection.sendall(PREDICT % 10**12 + b"\r\n" + b" " * 10)
    assert read_response(connection)[0] == 413
    end = time.monotonic() + 5
    with suppress(OSError):
        while time.monotonic() < end:
            connection.sendall(b" ")
            time.sleep(0.05)
    assert time.monotonic() < end


def test_a_connection_is_used_again_after_a_long_body(connection: socket.socket) -> None:
    connection.sendall(PREDICT % 2000 + b"\r\n" + b" " * 2000)
    status, found, head = read_response(connection)
    assert (status, found["error"], b"connection: close" in head) == (413, "the body is longer than 1,000 bytes", False)
    connection.sendall(PREDICT % len(VALID) + b"\r\n" + VALID)
    assert read_response(connection)[0] == 200


def test_a_body_that_is_late_ends_the_connection(connection: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "TIMEOUT", 0.2)
    connection.sendall(PREDICT % 100 + b"\r\n{")
    assert read_response(connection)[0] == 408
    assert is_closed(connection)


@pytest.mark.parametrize(("length", "first"), [(len(VALID), b"HTTP/1.1 100 "), (2000, b"HTTP/1.1 413 ")])
def test_a_client_that_waits_for_100_continue_sends_no_long_body(
    connection: socket.socket, length: int, first: bytes
) -> None:
    connection.sendall(PREDICT % length + b"Expect: 100-continue\r\n\r\n")
    received = connection.recv(1000)
    assert received.startswith(first)
    if length == 2000:
        assert b"connection: close" in received.lower()
        return
    connection.sendall(VALID)
    assert read_response(connection)[0] == 200


def test_a_busy_server_responds_with_json_and_to_probes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MAX_RUNNING", 2)
    with ExitStack() as stack:
        for _ in range(2):
            one = stack.enter_context(socket.create_connection((server.host, server.port)))
            one.sendall(PREDICT % 100 + b"\r\n{")
        for _ in range(5):  # silent ones do not count
            stack.enter_context(socket.create_connection((server.host, server.port)))
        time.sleep(0.2)
        status, found, headers = server.ask("POST", "/predict", VALID)
        assert (status, found["error"].partition(":")[0]) == (503, "2 requests are running")
        assert {"x-request-id", "retry-after"} <= {name.lower() for name in headers}
        assert server.ask("GET", "/health")[0] == server.ask("GET", "/ready")[0] == 200
    time.sleep(0.2)
    assert server.predict(VALID)[0] == 200
    assert 'kindling_requests_total{code="503",path="/predict"} 1.0' in server.ask("GET", "/metrics")[1]


def test_trailers_are_limited(connection: socket.socket) -> None:
    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.sendall(b"%x\r\n%b\r\n0\r\nA: " % (len(VALID), VALID))
    with suppress(ConnectionError):
        for _ in range(8):
            connection.sendall(b"a" * MAX_HEAD_BYTES)
            time.sleep(0.01)
    assert is_closed(connection)


@pytest.fixture
def unread(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Return connections that ask for files without a key, until the server waits for them, and never read."""
    monkeypatch.setattr(gateway, "MAX_RUNNING", 2)
    request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.socket()) for _ in range(2)]
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((server.host, server.port))
            connection.sendall(request * 20)
        wait_for_status(server, 503)
        yield connections


def wait_for_status(server: Server, expected: int) -> None:
    end = time.monotonic() + 10
    while server.ask("GET", "/docs")[0] != expected:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_unread_public_files_do_not_keep_other_requests_waiting(server: Server, unread: list[socket.socket]) -> None:
    assert server.ask("GET", "/info")[0] == 200
    assert server.predict(VALID)[0] == 200


def test_clients_that_do_not_read_are_disconnected(
    server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 1)
    request.getfixturevalue("unread")
    wait_for_status(server, 200)


def test_a_client_that_reads_slowly_gets_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 0.2)
    checked, check = [], LimitedProtocol._check_reading

    def count(protocol: LimitedProtocol, unread: int) -> None:
        checked.append(unread)
        check(protocol, unread)

    monkeypatch.setattr(LimitedProtocol, "_check_reading", count)
    app, body = FastAPI(), bytes(16 * 10**6)  # more than the kernel buffers
    app.get("/")(lambda: Response(body))
    with serving_here(app) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.connect((server.host, server.port))
        connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        received = 0
        while part := connection.recv(65_536):
            received += len(part)
            time.sleep(0.004)
    assert received > len(body)
    assert len(checked) > 2
