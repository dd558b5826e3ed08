"""The models that a server holds, each of which can be replaced while requests are running."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kindling.deploy.batching import Batcher
from kindling.deploy.metrics import Metrics
from kindling.deploy.model_card import metrics_file
from kindling.deploy.onnx_file import check_exported, load_onnx
from kindling.deploy.predictor import Predictor, load
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.runs.text_files import read_json

MAX_SAMPLES = 4096  # per request
LOADS = 5  # of a file that is overwritten meanwhile
MAX_NUMBERS = 2**23  # probabilities per request: 34 MB


def find_model(source: str) -> Path:
    """Return the existing file of a model given as --ckpt_path: a checkpoint or an exported file."""
    if not source.endswith(".onnx"):
        return find_checkpoint(source).resolve()
    check_exported(path := Path(source).resolve())
    return path


def written_at(path: Path) -> tuple[int, int]:
    """Return when the file of a model and the test metrics of its run were last written, in ns; 0 for no metrics."""
    file, metrics = path.stat().st_mtime_ns, 0
    with suppress(FileNotFoundError):
        metrics = metrics_file(path).stat().st_mtime_ns
    return file, metrics


def open_model(path: Path) -> Predictor:
    """Load a checkpoint or an exported file."""
    return load_onnx(path) if path.suffix == ".onnx" else load(path)


def version_of(path: Path) -> str:
    """Return the first 12 digits of a file's SHA-256, which identify its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def open_version(path: Path, version: str = "") -> tuple[Predictor, str]:
    """Load a checkpoint or an exported file, whose version may be known, and return it with the version loaded.

    Raises:
        ValueError: If it was overwritten each time.
    """
    version = version or version_of(path)
    for _ in range(LOADS):
        predictor = open_model(path)
        previous, version = version, version_of(path)
        if version == previous:
            return predictor, version
    raise ValueError(f"{path} was overwritten {LOADS} times while it was read")


def check_task(before: str | None, after: str | None) -> None:
    """Raise ValueError if a new version of a model is for another task."""
    if after != before:
        raise ValueError(
            f"the new checkpoint is for {after}, but this server serves {before}: restart `kindling serve`"
        )


@dataclass(frozen=True)
class LoadedModel:
    """A version of a model; a request uses the same one from its start to its end."""

    predictor: Predictor
    batcher: Batcher
    version: str
    max_samples: int  # in a request


class ServedModel:
    """A model under a name.

    Args:
        name: Its name.
        predictor: The model.
        metrics: Where batches and versions are counted.
        batch_size: Maximum number of samples that are computed at once.
        version: See `version_of`.
    """

    def __init__(
        self, name: str, predictor: Predictor, metrics: Metrics, batch_size: int = 64, version: str = ""
    ) -> None:
        self.name, self.metrics, self.batch_size = name, metrics, batch_size
        self.current = self._loaded(predictor, version)
        self.metrics.loaded(name, version, predictor.card.model, None)

    def replace(self, predictor: Predictor, version: str) -> None:
        """Serve another version, for the same task, from the next request on; others end with the previous one."""
        before, after = self.current.predictor.card, predictor.card
        check_task(before.task, after.task)
        previous, self.current = self.current, self._loaded(predictor, version)
        self.metrics.loaded(self.name, version, after.model, (previous.version, before.model))

    def read_metrics_again(self, path: Path) -> None:
        """Read the test metrics of a checkpoint that is served already: `fit` writes them after the checkpoint."""
        predictor = self.current.predictor
        if path.suffix != ".onnx":
            predictor.card = replace(predictor.card, metrics=read_json(metrics_file(path)))

    def _loaded(self, predictor: Predictor, version: str) -> LoadedModel:
        batcher = Batcher(predictor.compute, self.batch_size, self.metrics.of_model(self.name))
        most = max(1, min(MAX_SAMPLES, MAX_NUMBERS // max(1, len(predictor.card.classes))))
        return LoadedModel(predictor, batcher, version, most)

    async def check(self) -> None:
        """Predict a sample of zeros; raise an exception if that fails, or too many requests are waiting."""
        current = self.current
        sample = torch.zeros(1, *current.predictor.card.input_shape)
        outputs = await current.batcher.submit(sample, is_probe=True)
        if not outputs.isfinite().all():
            raise ValueError("its prediction is not a number")
