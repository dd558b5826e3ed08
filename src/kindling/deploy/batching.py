"""Samples of many requests computed as one batch."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

QUICK = 0.001  # seconds


class QueueFullError(Exception):
    """More is waiting than can be answered soon."""


class Batcher:
    """Gathers what is asked while the model computes, and asks it of the model as one batch.

    No request waits for others to come: while the model has nothing to do, a single one is a batch.

    Args:
        compute: Takes inputs (N, ...) and gives probabilities (N, classes).
        most: Samples in a batch.
        most_waiting: Requests in the queue, beyond which more are refused.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], most: int, most_waiting: int = 1024) -> None:
        self.compute = compute
        self.most = most
        self.most_waiting = most_waiting
        self._waiting: list[tuple[Tensor, asyncio.Future[Tensor]]] = []
        self._at_work: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1)  # the event loop goes on reading requests meanwhile
        self._is_quick = False  # so that handing a batch over to the thread would take longer than to compute it

    async def ask(self, inputs: Tensor) -> Tensor:
        """The probabilities (n, classes) of the samples of one request (n, ...).

        Raises:
            TooBusyError: If too many requests are waiting.
        """
        if len(self._waiting) >= self.most_waiting:
            raise QueueFullError(f"{self.most_waiting:,} requests are waiting: try again in a moment")
        answer: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        self._waiting.append((inputs, answer))
        if self._at_work is None:
            self._at_work = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                try:
                    found = await self._compute(torch.cat([samples for samples, _ in batch]))
                    parts = torch.split(found, [len(samples) for samples, _ in batch])
                except Exception as error:  # whatever the model raises is the answer to those who asked
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for (_, answer), part in zip(batch, parts, strict=True):
                    if not answer.done():  # a client may have gone away
                        answer.set_result(part)
        finally:
            self._at_work = None

    async def _compute(self, inputs: Tensor) -> Tensor:
        def compute() -> Tensor:
            return torch.cat([self.compute(part) for part in torch.split(inputs, self.most)])

        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        here = self._is_quick and len(inputs) <= self.most
        found = compute() if here else await loop.run_in_executor(self._thread, compute)
        self._is_quick = time.perf_counter() - start < QUICK
        return found

    def _next_batch(self) -> list[tuple[Tensor, "asyncio.Future[Tensor]"]]:
        taken = samples = 0
        while taken < len(self._waiting) and samples < self.most:
            samples += len(self._waiting[taken][0])
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch
