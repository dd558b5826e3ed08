"""Computes the samples of concurrent requests in batches."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from kindling.deploy.metrics import ModelMetrics

MAX_WAITING = 1024  # requests; more are refused
MAX_WAITING_SECONDS = 30.0  # clients have given up by then
WAITED_TOO_LONG = f"the request has waited for {MAX_WAITING_SECONDS:g} s: try again in a moment"
INLINE_SECONDS = 0.001  # a batch that takes less is computed in the event loop: a thread would cost more


class QueueFullError(Exception):
    """Too many requests are waiting."""


class Waiting(NamedTuple):
    """A request that waits to be computed."""

    inputs: Tensor  # (n, ...)
    result: "asyncio.Future[Tensor]"  # the outputs (n, ...)
    is_probe: bool  # left out of the metrics
    since: float  # when it arrived, by `time.perf_counter`


class Batcher:
    """Collects the requests that arrive while the model computes, and computes them as one batch.

    A request never waits for others to arrive: while the model is idle, it is computed immediately.

    Args:
        compute: Takes inputs (N, ...) and returns outputs (N, ...).
        batch_size: Maximum number of samples in a batch.
        metrics: Where waiting requests and batches are counted.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], batch_size: int, metrics: ModelMetrics) -> None:
        self.compute, self.batch_size, self.metrics = compute, batch_size, metrics
        self._waiting: list[Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1)  # the event loop keeps reading requests meanwhile
        self._is_quick = False  # whether the last batch took less than INLINE_SECONDS

    async def submit(self, inputs: Tensor, is_probe: bool = False) -> Tensor:
        """Return the outputs (n, ...) for the inputs (n, ...) of one request; the metrics leave out probes.

        Raises:
            QueueFullError: If too many requests are waiting, or this one has waited for too long.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise QueueFullError(f"{MAX_WAITING:,} requests are waiting: try again in a moment")
        result: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(inputs, result, is_probe, time.perf_counter()))
        if not is_probe:
            self.metrics.waiting.inc()
        if self._worker is None:
            self._worker = asyncio.create_task(self._compute_waiting())
        return await result

    async def _compute_waiting(self) -> None:
        try:
            while batch := self._next_batch():
                try:
                    inputs = torch.cat([request.inputs for request in batch])
                    outputs = await self._compute(inputs, is_probe=all(request.is_probe for request in batch))
                    parts = torch.split(outputs, [len(request.inputs) for request in batch])
                except Exception as error:  # any error of the model is passed on to the requests
                    for request in batch:
                        if not request.result.done():
                            request.result.set_exception(error)
                    continue
                for request, part in zip(batch, parts, strict=True):
                    if not request.result.done():  # else canceled meanwhile, such as a probe that took too long
                        request.result.set_result(part)
        finally:
            self._worker = None

    async def _compute(self, inputs: Tensor, is_probe: bool) -> Tensor:
        def compute() -> Tensor:
            try:
                if len(inputs) <= self.batch_size:
                    return self.compute(inputs)
                return torch.cat([self.compute(part) for part in torch.split(inputs, self.batch_size)])
            except (StopIteration, SystemExit, asyncio.CancelledError) as error:
                # None of them reaches the requests: they would wait forever, or the server would end.
                raise RuntimeError(f"the model raised {type(error).__name__}") from error

        start = time.perf_counter()
        if self._is_quick and len(inputs) <= self.batch_size:
            outputs = compute()
        else:
            outputs = await asyncio.get_running_loop().run_in_executor(self._thread, compute)
        self._is_quick = time.perf_counter() - start < INLINE_SECONDS
        if not is_probe:
            for first in range(0, len(inputs), self.batch_size):
                self.metrics.batches.observe(min(self.batch_size, len(inputs) - first))
        return outputs

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        requests = samples = 0
        oldest = time.perf_counter() - MAX_WAITING_SECONDS
        while requests < len(self._waiting) and samples < self.batch_size:
            request = self._waiting[requests]
            requests += 1
            if not request.is_probe:
                self.metrics.waiting.dec()
            if request.result.done():  # canceled
                continue
            if request.since < oldest:
                request.result.set_exception(QueueFullError(WAITED_TOO_LONG))
                continue
            batch.append(request)
            samples += len(request.inputs)
        self._waiting = self._waiting[requests:]
        return batch
