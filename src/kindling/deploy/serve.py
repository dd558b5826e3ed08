"""`kindling serve`: serve a model over HTTP."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from kindling.deploy.addresses import free_port, is_local
from kindling.deploy.card import ModelCard
from kindling.deploy.onnx_file import load_onnx
from kindling.deploy.predictor import Predictor, load
from kindling.runs.find import find_checkpoint
from kindling.training.processes import exit_when_orphaned
from kindling.utils.console import say
from kindling.utils.optional import require_extra
from kindling.utils.text import format_number

KEY = "KINDLING_API_KEY"
SETTINGS = "KINDLING_SERVE"  # environment variable that configures worker processes


def serve(
    ckpt_path: str = "best",
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    batch_size: int = 64,
    max_mb: float = 10.0,
) -> None:
    """Serve a model over HTTP: POST /predict, GET /info, GET /health; and a page at / to try it.

    The model predicts a class, several classes or a number.

    Unless the host is local, clients must send the key in the environment variable KINDLING_API_KEY as the header
    `Authorization: Bearer KEY`.

    Args:
        ckpt_path: Checkpoint: best, last (of the newest run), a run folder or a file; or a file of kindling export
            --format onnx.
        host: Address to listen on; 0.0.0.0 for all network interfaces.
        port: Port to listen on; 0 for any free one.
        workers: Processes, each with its own copy of the model and its share of the cores.
        batch_size: Maximum number of samples, of waiting requests together, that are computed at once.
        max_mb: Maximum size of a request, in MB.
    """
    require_extra("serve", "starlette", "uvicorn", "python_multipart")
    for name, value, least in (("workers", workers, 1), ("batch_size", batch_size, 1), ("port", port, 0)):
        if not least <= value <= 65535:
            raise ValueError(f"{name} must be from {least} to 65535, got {value}")
    key = os.environ.get(KEY, "")
    if not key.isascii() or key != key.strip():
        raise ValueError(f"{KEY} must be ASCII without surrounding blanks, since clients send it in a header")
    if not is_local(host) and not key:
        raise ValueError(f"{host} can be reached from other machines: set {KEY} to a secret that clients must send")
    import uvicorn

    port = free_port(host, port)
    # Resolved once: a worker that restarts later serves the same model, even if there is a newer run.
    model = (Path(ckpt_path) if ckpt_path.endswith(".onnx") else find_checkpoint(ckpt_path)).resolve()
    predictor = open_model(model)
    say(f"{describe(predictor.card)}: http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C stops it)")
    if threshold := predictor.card.decision:
        say(threshold.describe(predictor.card.classes))
    settings = {
        "model": str(model),
        "batch_size": batch_size,
        "max_bytes": int(max_mb * 1e6),
        "threads": threads(workers),
        "parent": os.getpid(),
    }
    os.environ[SETTINGS] = json.dumps(settings)
    uvicorn.run(
        application(predictor) if workers == 1 else "kindling.deploy.serve:application",
        factory=workers > 1,
        workers=workers,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,  # seconds for running requests
    )


def application(predictor: Predictor | None = None) -> Any:
    """Return the application of one process, configured by the environment; worker processes load the model."""
    from kindling.deploy.server import Service

    settings = json.loads(os.environ[SETTINGS])
    torch.set_num_threads(settings["threads"])
    if predictor is None:
        exit_when_orphaned(settings["parent"])
        predictor = open_model(Path(settings["model"]))
    return Service(predictor, os.environ.get(KEY, ""), settings["max_bytes"], settings["batch_size"]).app()


def describe(card: ModelCard) -> str:
    """Return the name of a model with its accuracy, its mean average precision or its mean absolute error."""
    accuracy, error, precision = (card.metrics.get(f"test/{name}") for name in ("accuracy", "mae", "map"))
    if card.task == "multilabel" and precision is not None:
        return f"{card.model}, test mean average precision {precision:.2%}"
    if card.task == "regression" and error is not None:
        return f"{card.model}, test MAE {format_number(error)} {card.unit}".rstrip()
    return card.model + (f", test accuracy {accuracy:.2%}" if accuracy is not None else "")


def threads(workers: int) -> int:
    """Return the number of computing threads of a worker: its share of the cores, minus one that reads requests.

    More would be many times slower, since computing threads busy-wait for each other.
    """
    return max(1, torch.get_num_threads() // workers - 1)


def open_model(path: Path) -> Predictor:
    """Load a checkpoint or an exported file."""
    return load_onnx(path) if path.suffix == ".onnx" else load(path)
