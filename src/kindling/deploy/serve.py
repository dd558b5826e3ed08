"""`kindling serve`: serve a model over HTTP."""

import math
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kindling.deploy.addresses import KEY, free_port, is_local
from kindling.deploy.model_card import ModelCard
from kindling.deploy.sighup import has_terminal, record_sighups
from kindling.utils.console import say
from kindling.utils.optional import require_extra
from kindling.utils.text import format_number

if TYPE_CHECKING:
    from kindling.deploy.predictor import Predictor

DEFAULT_NAME = "default"  # of a single model
NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)


def serve(
    *models: str,
    ckpt_path: str = "best",
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    batch_size: int = 64,
    max_mb: float = 10.0,
    access_log: str = "",
    watch_seconds: float = 0.0,
) -> None:
    """Serve models over HTTP: POST /predict, GET /info, GET /health; a page at / to try them, the API at /docs.

    A model predicts a class, several classes or a number. SIGHUP loads the newest version of each model.

    Unless the host is local, clients must send the key in the environment variable KINDLING_API_KEY as the header
    `Authorization: Bearer KEY`.

    Args:
        models: Several models as NAME=CHECKPOINT, instead of --ckpt_path.
        ckpt_path: Checkpoint: best, last (of the newest run), a run folder or a file; or a file of kindling export
            --format onnx.
        host: Address to listen on; 0.0.0.0 for all network interfaces.
        port: Port to listen on; 0 for any free one.
        workers: Processes, each with its own copy of the model and its share of the cores.
        batch_size: Maximum number of samples, of waiting requests together, that are computed at once.
        max_mb: Maximum size of a request, in MB.
        access_log: File to which a line of JSON is written for each request; - for standard output.
        watch_seconds: How often to look for a new version of the models, and load it; 0 for only on SIGHUP.
    """
    require_extra("serve", "fastapi", "uvicorn", "python_multipart", "prometheus_client", "fastapi_swagger")
    for name, value, least in (("workers", workers, 1), ("batch_size", batch_size, 1), ("port", port, 0)):
        if not least <= value <= 65535:
            raise ValueError(f"{name} must be from {least} to 65535, got {value}")
    if not 0 <= watch_seconds < math.inf:
        raise ValueError(f"watch_seconds must be at least 0 and finite, got {watch_seconds}")
    if not 0 < max_mb < math.inf:
        raise ValueError(f"max_mb must be positive and finite, got {max_mb}")
    if access_log not in ("", "-"):
        Path(access_log).open("a").close()
    key = os.environ.get(KEY, "")
    if not key.isascii() or key != key.strip():
        raise ValueError(f"{KEY} must be ASCII without surrounding blanks, since clients send it in a header")
    if not is_local(host) and not key:
        raise ValueError(f"{host} can be reached from other machines: set {KEY} to a secret that clients must send")
    if watch_seconds and workers > 1 and not hasattr(signal, "SIGHUP"):
        raise ValueError("watch_seconds needs --workers 1 on Windows, which has no SIGHUP")
    from kindling.deploy.served_models import open_version
    from kindling.deploy.serving_process import limit_threads, run_server
    from kindling.deploy.settings import Settings

    settings = Settings(
        models=named_models(models, ckpt_path),
        workers=workers,
        batch_size=batch_size,
        max_bytes=int(max_mb * 1e6),
        access_log=access_log,
        watch_seconds=watch_seconds,
        ends_with_terminal=has_terminal(),
    ).resolve()
    port = free_port(host, port)
    pending_signals = record_sighups()
    limit_threads(workers)
    predictors: dict[str, Predictor] = {}
    versions: dict[str, str] = {}
    for name, file in settings.files.items():
        predictors[name], versions[name] = open_version(Path(file))
    settings = replace(settings, versions=versions)
    cards = {name: predictor.card for name, predictor in predictors.items()}
    announcement = partial(announce, models, cards, host, port, access_log == "-")
    run_server(settings, predictors, host, port, announcement, pending_signals)


def announce(models: Sequence[str], cards: Mapping[str, ModelCard], host: str, port: int, stderr: bool) -> None:
    """Print the addresses of all models (`cards`), of which some may have been given by name (`models`)."""
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    for name, card in cards.items():
        path = f"{address}models/{name}/" if models else f"{address} (Ctrl-C stops it)"
        say(f"{describe(card)}: {path}", stderr=stderr)
        if threshold := card.decision:
            say(threshold.describe(card.classes), stderr=stderr)
    if models:
        say("Ctrl-C stops the server", stderr=stderr)


def describe(card: ModelCard) -> str:
    """Return the name of a model with its accuracy, its mean average precision or its mean absolute error."""
    accuracy, error, precision = (card.metrics.get(f"test/{name}") for name in ("accuracy", "mae", "map"))
    if card.task == "multilabel" and precision is not None:
        return f"{card.model}, test mean average precision {precision:.2%}"
    if card.task == "regression" and error is not None:
        return f"{card.model}, test MAE {format_number(error)} {card.unit}".rstrip()
    return card.model + (f", test accuracy {accuracy:.2%}" if accuracy is not None else "")


def named_models(models: Sequence[str], ckpt_path: str) -> dict[str, str]:
    """Return the checkpoint argument of each model by name, from `NAME=CHECKPOINT` or `--ckpt_path`."""
    if not models:
        return {DEFAULT_NAME: ckpt_path}
    if ckpt_path != "best":
        raise ValueError(f"give models as NAME=CHECKPOINT or one as --ckpt_path, not both: {models[0]}, {ckpt_path}")
    named: dict[str, str] = {}
    for model in models:
        name, equals, source = model.partition("=")
        if not (equals and source and NAME.fullmatch(name)):
            raise ValueError(f"give a model as NAME=CHECKPOINT, its name of letters, digits, - and _; got {model}")
        if name in named:
            raise ValueError(f"two models have the name {name}")
        named[name] = source
    return named
