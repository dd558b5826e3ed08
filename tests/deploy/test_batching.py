import asyncio
import time

import pytest
import torch
from torch import Tensor

from kindling.deploy import batching
from kindling.deploy.batching import Batcher, QueueFullError
from kindling.deploy.metrics import Metrics, ModelMetrics


@pytest.fixture
def metrics() -> ModelMetrics:
    return Metrics().of_model("m")


def test_a_failed_batch_does_not_affect_the_next(metrics: ModelMetrics) -> None:
    failures: list[Tensor | BaseException] = [ValueError("no"), torch.zeros(5, 2), MemoryError("full")]
    failures += [StopIteration(), SystemExit(2), asyncio.CancelledError()]

    def compute(inputs: Tensor) -> Tensor:
        found = failures.pop(0) if failures else inputs * 2
        if isinstance(found, BaseException):
            raise found
        return found

    async def ask() -> None:
        batcher = Batcher(compute, 4, metrics)
        for _ in range(6):
            with pytest.raises((ValueError, RuntimeError, MemoryError)):
                await asyncio.wait_for(batcher.submit(torch.ones(1, 2)), 10)
        for number in range(5):
            answer = await asyncio.wait_for(batcher.submit(torch.full((1, 2), float(number))), 10)
            assert answer.tolist() == [[2.0 * number] * 2]

    asyncio.run(ask())


def test_waiting_requests_form_one_batch_without_canceled_ones(metrics: ModelMetrics) -> None:
    sizes: list[int] = []

    def compute(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return inputs + 1

    async def ask() -> None:
        batcher = Batcher(compute, 64, metrics)
        asked = [asyncio.create_task(batcher.submit(torch.full((2, 1), float(number)))) for number in range(10)]
        await asyncio.sleep(0)
        asked[3].cancel()
        for number, task in enumerate(asked):
            if number != 3:
                assert (await asyncio.wait_for(task, 10)).flatten().tolist() == [number + 1.0] * 2

    asyncio.run(ask())
    assert sizes == [18]


def test_a_request_that_waited_too_long_is_refused(metrics: ModelMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING_SECONDS", 0.05)

    def compute(inputs: Tensor) -> Tensor:
        time.sleep(0.1)
        return inputs

    async def ask() -> None:
        batcher = Batcher(compute, 1, metrics)
        asked = [asyncio.create_task(batcher.submit(torch.ones(1, 1))) for _ in range(2)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in found] == [Tensor, QueueFullError]

    asyncio.run(ask())


def test_the_metric_is_the_size_of_the_computed_batches() -> None:
    metrics = Metrics()

    async def ask() -> None:
        batcher = Batcher(lambda inputs: inputs, 4, metrics.of_model("m"))
        await batcher.submit(torch.ones(10, 1))

    asyncio.run(ask())
    text = metrics.render().decode()
    assert 'kindling_batch_samples_bucket{le="2.0",model="m"} 1.0' in text
    assert 'kindling_batch_samples_bucket{le="4.0",model="m"} 3.0' in text
    assert 'kindling_batch_samples_sum{model="m"} 10.0' in text


def test_too_many_waiting_requests_are_refused(metrics: ModelMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING", 3)

    async def ask() -> None:
        batcher = Batcher(lambda inputs: inputs, 1, metrics)
        asked = [asyncio.create_task(batcher.submit(torch.ones(1, 1))) for _ in range(4)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in found] == [Tensor, Tensor, Tensor, QueueFullError]

    asyncio.run(ask())
