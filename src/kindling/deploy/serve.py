"""`kindling serve`: a model over HTTP."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from kindling.deploy.addresses import free_port, is_local
from kindling.deploy.formats import load_onnx
from kindling.deploy.predictor import Predictor, load
from kindling.runs.find import find_checkpoint
from kindling.training.processes import exit_when_orphaned
from kindling.utils.console import say
from kindling.utils.optional import require_extra

KEY = "KINDLING_API_KEY"
SETTINGS = "KINDLING_SERVE"  # tells worker processes what to serve


def serve(
    ckpt_path: str = "best",
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    batch: int = 64,
    most_mb: float = 10.0,
) -> None:
    """Answers over HTTP: POST /predict, GET /info, GET /health, and a page at / to try the model on.

    Where the host is not local, clients must send the key that the environment variable KINDLING_API_KEY holds, as
    the header `Authorization: Bearer KEY`.

    Args:
        ckpt_path: Checkpoint: best, last (of the newest run), a run folder or a file; or a file of kindling export
            --format onnx.
        host: Address to listen at; 0.0.0.0 is all of this machine.
        port: Port to listen at; 0 takes any free one.
        workers: Processes, each with a model of its own and its share of the cores.
        batch: Samples that the model is asked at a time: what waits goes together.
        most_mb: Longest body of a request, in MB.
    """
    require_extra("serve", "starlette", "uvicorn", "python_multipart")
    for name, value, least in (("workers", workers, 1), ("batch", batch, 1), ("port", port, 0)):
        if not least <= value <= 65535:
            raise ValueError(f"{name} must be from {least} to 65535, not {value}")
    key = os.environ.get(KEY, "")
    if not key.isascii() or key != key.strip():
        raise ValueError(f"{KEY} must be of ASCII characters without blanks around them: a header can't carry others")
    if not is_local(host) and not key:
        raise ValueError(f"whoever reaches {host} could use the model: set {KEY} to a secret that clients must send")
    import uvicorn

    port = free_port(host, port)
    # Found once: a worker that starts later serves the same, whatever run is the newest then.
    model = (Path(ckpt_path) if ckpt_path.endswith(".onnx") else find_checkpoint(ckpt_path)).resolve()
    predictor = open_model(model)
    accuracy = predictor.card.metrics.get("test/accuracy")
    what = predictor.card.model + (f", test accuracy {accuracy:.2%}" if accuracy is not None else "")
    say(f"{what}: http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C stops it)")
    settings = {"model": str(model), "batch": batch, "most_bytes": int(most_mb * 1e6), "threads": threads(workers)}
    settings["parent"] = os.getpid()
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
        timeout_graceful_shutdown=30,  # seconds for what is in flight when it is told to stop
    )


def application(predictor: Predictor | None = None) -> Any:
    """The application of one process, as the environment says; worker processes load the model by themselves."""
    from kindling.deploy.server import Service

    settings = json.loads(os.environ[SETTINGS])
    torch.set_num_threads(settings["threads"])
    if predictor is None:
        exit_when_orphaned(settings["parent"])
        predictor = open_model(Path(settings["model"]))
    return Service(predictor, os.environ.get(KEY, ""), settings["most_bytes"], settings["batch"]).app()


def threads(workers: int) -> int:
    """Threads with which each worker computes: its share of the cores, but for one that reads requests.

    More would be many times as slow: threads that wait for each other get in the way of everything else.
    """
    return max(1, torch.get_num_threads() // workers - 1)


def open_model(path: Path) -> Predictor:
    """A checkpoint or an exported file."""
    return load_onnx(path) if path.suffix == ".onnx" else load(path)
