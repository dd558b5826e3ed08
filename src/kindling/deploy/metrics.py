"""The metrics at /metrics, in the format of Prometheus."""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

VERSIONS = "kindling_model_info"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class ModelMetrics:
    """The metrics of one model."""

    waiting: Gauge  # number of requests that wait to be computed
    batches: Histogram  # sizes of the computed batches, in samples


class CurrentVersions(MultiProcessCollector):
    """The metrics in the files of several processes, which cannot forget previous versions: those have the value 0."""

    def __init__(self, folder: str) -> None:
        super().__init__(None, folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Any:
        """Return all metrics."""
        for metric in super().collect():  # type: ignore[no-untyped-call]
            if metric.name == VERSIONS:
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


class Metrics:
    """The metrics of a server.

    Args:
        folder: Folder in which several worker processes collect their metrics, the one in the environment variable
            PROMETHEUS_MULTIPROC_DIR; None for one process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.registry = CollectorRegistry()
        if folder is None:
            ProcessCollector(registry=self.registry)
        disable_created_metrics()  # a second series for each counter
        to: dict[str, Any] = {"registry": self.registry}
        labels = ["path", "code"]
        self._requests = Counter("kindling_requests", "Requests by path and status code", labels, **to)
        text = "Seconds from the head of a request to its response"
        self._seconds = Histogram("kindling_request_seconds", text, ["path"], buckets=SECONDS, **to)
        self._batches = Histogram("kindling_batch_samples", "Samples of a batch", ["model"], buckets=SAMPLES, **to)
        text = "Requests that wait to be computed"
        self._waiting = Gauge("kindling_waiting_requests", text, ["model"], multiprocess_mode="livesum", **to)
        labels = ["model", "version", "network"]
        text = "1 for the version that is served"
        self._models = Gauge(VERSIONS, text, labels, multiprocess_mode="livemax", **to)
        labels = ["model", "result"]
        self._reloads = Counter("kindling_reloads", "Attempts to load a new version", labels, **to)
        self.observe_request = cache(self._request_observer)

    def _request_observer(self, path: str, code: int) -> "tuple[Counter, Histogram]":
        """Return the counter and the histogram of requests for a path with a status code."""
        return self._requests.labels(path, code), self._seconds.labels(path)

    def of_model(self, name: str) -> ModelMetrics:
        """Return the metrics of a model."""
        return ModelMetrics(self._waiting.labels(name), self._batches.labels(name))

    def loaded(self, name: str, version: str, network: str, previous: tuple[str, str] | None) -> None:
        """Record that a version of a model is served now, in place of the previous version and network."""
        if previous:
            self._models.labels(name, *previous).set(0)
            if self.folder is None:  # else see `CurrentVersions`
                self._models.remove(name, *previous)
        self._models.labels(name, version, network).set(1)

    def reloaded(self, name: str, result: str) -> None:
        """Count an attempt to load a new version: "loaded", "unchanged" or "failed"."""
        self._reloads.labels(name, result).inc()

    def render(self) -> bytes:
        """Return all metrics as text."""
        if self.folder is None:
            return generate_latest(self.registry)
        for file in self.folder.glob("gauge_live*.db"):
            process = re.search(r"_(\d+)\.db$", file.name)
            if process and not psutil.pid_exists(int(process[1])):
                with suppress(FileNotFoundError):  # another worker does the same
                    mark_process_dead(int(process[1]), str(self.folder))  # of a worker that was restarted
        registry = CollectorRegistry()
        registry.register(CurrentVersions(str(self.folder)))
        return generate_latest(registry)
