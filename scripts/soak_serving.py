"""Serves for a long time under load with hostile requests, and checks memory, latency and errors.

    python scripts/soak_serving.py --ckpt_path runs/mnist_cnn_fast/version_0 --minutes 30

Measures the capacity for a mixture of valid and hostile requests, then sends 80% of it. Hostile are 5%: broken, deeply
nested or wrong JSON, broken images, a decompression bomb; and each minute, an endless header on another connection.
After a minute that warms the server up, prints a row per minute, and ends with 1 if one of these does not hold: after
the first minute, memory stays within 5%; valid requests get 200, hostile ones 4xx; the 99th percentile of the latency
of each minute, measured from when a request was due, is at most 1.5 times that of the first one. Writes the rows as
JSON. Nothing else should run on the machine meanwhile.
"""

import argparse
import asyncio
import gc
import itertools
import json
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from hostile import bomb
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from benchmark import machine
from benchmark_serving import PORT, Client, digit, http, kindling_server, load, running, wait_for_server

LOAD = 0.8  # of the capacity
HOSTILE_EVERY = 20  # requests
CONNECTIONS = 64
MAX_GROWTH = 1.05  # of the memory, after the first minute
MAX_DELAY = 60.0  # seconds until all requests of a minute must have a response
MAX_SLOWER = 1.5  # 99th percentile of a minute, relative to the first one

COLUMNS = ("requests_per_second", "p50_ms", "p99_ms", "max_ms", "stolen_s", "memory_mb")
HOSTILE = (
    b"",
    b'{"inputs": [1, 2',
    b"[" * 50_000,
    b'{"inputs": [[NaN]]}',
    b'{"inputs": {"a": 1}}',
    b'{"inputs": [' + b"9" * 5000 + b"]}",
    json.dumps({"inputs": ["x" * 1500] + [""] * 20_000}).encode(),
    b'{"inputs": [' + b"[0.5, " * 30_000,
    json.dumps({"rows": [{"age": 3}]}).encode(),
    b"this is no image",
    bomb()[:200],
    bomb(),
)


class PacedClient(Client):
    """A connection that sends requests when it is told to.

    Args:
        idle: The connections without a running request; it puts itself there.
        responses: Receives whether the request was hostile, the status, and the seconds since the request was due.
    """

    def __init__(self, idle: "deque[PacedClient]", responses: list[tuple[bool, int, float]]) -> None:
        super().__init__(b"", 0.0, asyncio.get_running_loop().create_future())
        self.idle, self.responses = idle, responses

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.idle.append(self)

    def ask(self, request: bytes, is_hostile: bool, due: float) -> None:
        """Send a request that was due at a time by `time.perf_counter`."""
        self._is_hostile, self._sent_at = is_hostile, due
        self.transport.write(request)

    @override
    def answered(self, status: int, body: bytes, seconds: float) -> None:
        """Record a response."""
        self.responses.append((self._is_hostile, status, seconds))
        self.idle.append(self)


async def paced(rate: float, seconds: float) -> list[tuple[bool, int, float]]:
    """Send requests at a rate per second, some of them hostile, and return whether so, the status and the seconds."""
    loop = asyncio.get_running_loop()
    idle: deque[PacedClient] = deque()
    responses: list[tuple[bool, int, float]] = []
    valid, hostile = http("/predict", digit()), itertools.cycle([http("/predict", body) for body in HOSTILE])
    clients = [PacedClient(idle, responses) for _ in range(CONNECTIONS)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", PORT)  # type: ignore[misc]
    start, sent, total = time.perf_counter(), 0, int(rate * seconds)
    head = asyncio.create_task(asyncio.to_thread(send_endless_head))
    while sent < total or len(idle) < CONNECTIONS:
        if time.perf_counter() - start > seconds + MAX_DELAY:
            raise TimeoutError(
                f"{CONNECTIONS - len(idle)} requests have no response {MAX_DELAY:g} s after the last one"
            )
        while idle and sent < min(total, rate * (time.perf_counter() - start)):
            is_hostile = sent % HOSTILE_EVERY == HOSTILE_EVERY - 1
            idle.popleft().ask(next(hostile) if is_hostile else valid, is_hostile, start + sent / rate)
            sent += 1
        if any(client.done.done() for client in clients):
            raise ConnectionError("the server closed a connection")
        await asyncio.sleep(0.001)
    for client in clients:
        client.done.cancel()
        client.transport.close()
    await head
    return responses


def send_endless_head() -> None:
    """Send headers until the server ends the connection.

    Raises:
        ConnectionError: If it does not.
    """
    with socket.create_connection(("127.0.0.1", PORT), timeout=60) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nA: ")
        try:
            for _ in range(1000):
                connection.sendall(b"a" * 10_000)
        except (BrokenPipeError, ConnectionResetError):
            return
    raise ConnectionError("the server reads headers without end")


def soak(minutes: int, process: psutil.Process) -> Iterator[dict[str, Any]]:
    """Yield the measurements of each minute."""
    gc.freeze()
    gc.disable()  # its pauses would count as the server's
    body = http("/predict", digit())
    asyncio.run(load(PORT, body, 32, 5))
    most = len(asyncio.run(load(PORT, body, 32, 10))) / 10
    start = time.perf_counter()
    responses = asyncio.run(paced(most, 20))  # takes longer, as hostile requests cost more than valid ones
    rate = LOAD * len(responses) / (time.perf_counter() - start)
    asyncio.run(paced(rate, 60))  # the first minute is slower
    for minute in range(1, minutes + 1):
        stolen = stolen_seconds()
        responses = asyncio.run(paced(rate, 60))
        times = [1000 * seconds for is_hostile, _, seconds in responses if not is_hostile]
        yield {
            "minute": minute,
            "requests_per_second": len(responses) / 60,
            "p50_ms": statistics.median(times),
            "p99_ms": statistics.quantiles(times, n=100)[-1],
            "max_ms": max(times),
            "stolen_s": stolen_seconds() - stolen,
            "memory_mb": process.memory_info().rss / 1e6,
            "valid": dict(Counter(str(status) for is_hostile, status, _ in responses if not is_hostile)),
            "hostile": dict(Counter(str(status) for is_hostile, status, _ in responses if is_hostile)),
        }


def stolen_seconds() -> float:
    """Return the seconds that a host took from the cores of this virtual machine since it started; 0 if unknown."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def find_problems(rows: list[dict[str, Any]]) -> list[str]:
    """Return the requirements that are not met, see the top of this file."""
    first, problems = rows[0], []
    for row in rows:
        if {*row["valid"]} != {"200"} or any(not status.startswith("4") for status in row["hostile"]):
            problems.append(f"minute {row['minute']}: valid requests {row['valid']}, hostile ones {row['hostile']}")
        if row["memory_mb"] > MAX_GROWTH * first["memory_mb"]:
            problems.append(f"minute {row['minute']}: {row['memory_mb']:.0f} MB after {first['memory_mb']:.0f} MB")
        if row["p99_ms"] > MAX_SLOWER * first["p99_ms"]:
            problems.append(f"minute {row['minute']}: p99 {row['p99_ms']:.1f} ms after {first['p99_ms']:.1f} ms")
    return problems


def main() -> int:
    """Run the soak, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", default="best")
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for the JSON")
    options = parser.parse_args()
    checkpoint = str(Path(options.ckpt_path).resolve()) if Path(options.ckpt_path).exists() else options.ckpt_path
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        command, request = kindling_server(checkpoint, Path(folder))
        with running(command, Path(folder)) as pid:
            asyncio.run(wait_for_server(request, digit()))
            for row in soak(options.minutes, psutil.Process(pid)):
                rows.append(row)
                print(f"minute {row['minute']}: p99 {row['p99_ms']:.1f} ms, {row['memory_mb']:.0f} MB", flush=True)
    table = Table(title=f"{LOAD:.0%} of the capacity, {1 / HOSTILE_EVERY:.0%} hostile")
    for column in ("minute", "requests/s", "p50, ms", "p99, ms", "longest, ms", "taken by the host, s", "memory, MB"):
        table.add_column(column, justify="right")
    for row in rows:
        values = (row[name] for name in COLUMNS)
        table.add_row(str(row["minute"]), *(f"{value:,.1f}" for value in values))
    problems = find_problems(rows)
    Console().print(table, *problems or ["all requirements hold"], sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving_soak.json").write_text(json.dumps({"machine": machine(), "minutes": rows}) + "\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
