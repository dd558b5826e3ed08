"""Compares `kindling serve` with TorchServe: the same model, machine and load, in alternation.

    python scripts/benchmark_serving.py --ckpt_path runs/mnist_cnn_fast/version_0

Prints requests per second and latencies by the number of clients, and writes them as JSON. Each client sends one digit
as JSON and waits for the response before it sends the next. Needs Java, and the packages of the extras serve and
torchserve. Nothing else should run on the machine meanwhile.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from typing_extensions import override

from benchmark import machine
from kindling.cli import main as kindling
from kindling.data.mnist import read_sample

CLIENTS = (1, 8, 32)
PORT = 18080  # the next two ports are used as well


class Client(asyncio.Protocol):
    """A client that sends a request repeatedly over one connection and records how long each response took.

    Args:
        request: The request.
        until: When to stop, by `time.perf_counter`.
        done: Future that is set when the client has stopped.
    """

    def __init__(self, request: bytes, until: float, done: "asyncio.Future[None]") -> None:
        self.request, self.until, self.done = request, until, done
        self.seconds: list[float] = []
        self._received = b""
        self._sent_at = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = next((line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
        if not found or length is None or len(body) < int(length):
            return
        self._received = b""
        self.answered(int(head[9:12]), body, time.perf_counter() - self._sent_at)

    def answered(self, status: int, body: bytes, seconds: float) -> None:
        """Record a response, and send the next request."""
        if status == 200:
            self.seconds.append(seconds)
            self._send()
        else:
            self.done.set_exception(ConnectionError(body.decode()))
            self.transport.close()

    @override
    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        if self._sent_at < self.until:
            self.transport.write(self.request)
        else:
            self.done.set_result(None)
            self.transport.close()


async def load(port: int, request: bytes, clients: int, seconds: float) -> list[float]:
    """Return the seconds of each response to a number of concurrent clients."""
    loop, until = asyncio.get_running_loop(), time.perf_counter() + seconds
    made = [Client(request, until, loop.create_future()) for _ in range(clients)]
    for client in made:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(client.done for client in made))
    return [seconds for client in made for seconds in client.seconds]


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[int]:
    """Run a server, yield its process ID, and end all of its processes afterwards."""
    with (folder / "log").open("w") as log:
        environment = os.environ | {"LOG_LOCATION": str(folder), "METRICS_LOCATION": str(folder)}
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def http(path: str, body: bytes, token: str = "") -> bytes:
    """Return the bytes of an HTTP request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def digit() -> bytes:
    """Return the body of a request with one digit as JSON."""
    rows = (read_sample("test")[0][0, 0] / 255).tolist()
    return json.dumps({"inputs": [[round(value, 3) for value in row] for row in rows]}).encode()


def kindling_server(checkpoint: str, folder: Path) -> tuple[list[str], Any]:
    """Return the command that starts `kindling serve`, and a function that returns a request with a body."""
    command = [sys.executable, "-m", "kindling", "serve", "--ckpt_path", checkpoint, "--port", str(PORT)]
    return command, lambda body: http("/predict", body)


def torchserve_server(checkpoint: str, folder: Path) -> tuple[list[str], Any]:
    """Return the same for TorchServe with one worker, token authorization and its default batches."""
    assert (
        kindling(["export", "--ckpt_path", checkpoint, "--format", "torchserve", "--out", f"{folder}/digits.mar"]) == 0
    )
    names = ("inference", "management", "metrics")
    addresses = [f"{name}_address=http://127.0.0.1:{PORT + number}" for number, name in enumerate(names)]
    (folder / "config").write_text("\n".join([*addresses, "default_workers_per_model=1", ""]))
    program = str(Path(sys.executable).with_name("torchserve"))
    flags = "--start --ncs --foreground --model-store . --models digits=digits.mar --ts-config config".split()  # noqa: SIM905

    def request(body: bytes) -> bytes:
        token = json.loads((folder / "key_file.json").read_text())["inference"]["key"]
        return http("/predictions/digits", body, token)

    return [sys.executable, program, *flags], request


SERVERS = {"TorchServe": torchserve_server, "kindling serve": kindling_server}


async def wait_for_server(request: Any, body: bytes) -> None:
    """Wait until a server answers."""
    for _ in range(200):
        try:
            await load(PORT, request(body), 1, 0.1)
            break
        except OSError:  # it is not up yet, or has not written its key
            await asyncio.sleep(0.5)


async def measure(request: Any, body: bytes, seconds: float) -> dict[int, list[float]]:
    """Return the seconds of each response by the number of clients, measured after a warm-up."""
    await wait_for_server(request, body)
    await load(PORT, request(body), 8, 2 * seconds)
    return {clients: await load(PORT, request(body), clients, seconds) for clients in CLIENTS}


def main() -> None:
    """Measure both servers, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", default="best")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for the JSON")
    options = parser.parse_args()
    checkpoint = str(Path(options.ckpt_path).resolve()) if Path(options.ckpt_path).exists() else options.ckpt_path
    body = digit()
    rates: dict[str, dict[int, list[float]]] = {name: {clients: [] for clients in CLIENTS} for name in SERVERS}
    slowest: dict[str, dict[int, list[float]]] = {name: {clients: [] for clients in CLIENTS} for name in SERVERS}
    for number in range(options.rounds):
        for name, server in SERVERS.items():
            with tempfile.TemporaryDirectory() as folder:
                command, request = server(checkpoint, Path(folder))
                with running(command, Path(folder)):
                    found = asyncio.run(measure(request, body, options.seconds))
            for clients, seconds in found.items():
                rates[name][clients].append(len(seconds) / options.seconds)
                slowest[name][clients].append(1000 * statistics.quantiles(seconds, n=100)[-1])
            print(f"round {number + 1}: {name}, {rates[name][CLIENTS[-1]][-1]:,.0f} requests/s", flush=True)
    table = Table(title=f"one digit as JSON per request, one worker, medians of {options.rounds} rounds")
    for column in ("clients", *(f"{name}: {what}" for what in ("requests/s", "p99, ms") for name in SERVERS), "ratio"):
        table.add_column(column)
    for clients in CLIENTS:
        middle = [statistics.median(of[name][clients]) for of in (rates, slowest) for name in SERVERS]
        table.add_row(str(clients), *(f"{value:,.1f}" for value in middle), f"{middle[1] / middle[0]:.1f}")
    Console(width=120).print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    measured = {"machine": machine(), "requests_per_second": rates, "p99_ms": slowest}
    (options.out / "serving.json").write_text(json.dumps(measured) + "\n")


if __name__ == "__main__":
    main()
