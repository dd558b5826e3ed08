"""Loads new versions of models into a running server."""

import gc
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kindling.deploy.served_models import ServedModel, find_model, find_models, open_model, version_of
from kindling.utils.console import say
from kindling.utils.text import shorten


def reload_model(model: ServedModel, where: str) -> None:
    """Serve the newest version of a model, or the previous one if that fails, and print a line."""
    try:
        path = find_model(where)
        version = version_of(path)
        if version == model.current.version:
            model.metrics.reloaded(model.name, "unchanged")
            return
        model.replace(open_model(path), version)
    except Exception as error:  # whatever is wrong with a new checkpoint, the old one still works
        model.metrics.reloaded(model.name, "failed")
        say(f"{model.name}: still version {model.current.version}: {shorten(str(error))}", stderr=True)
    else:
        model.metrics.reloaded(model.name, "loaded")
        say(f"{model.name}: now version {version}, {path}")


def keep_objects() -> None:
    """Exclude the objects that exist now, a million of torch and the models, from the search for unused cycles.

    It would stop all requests for a tenth of a second now and then.
    """
    gc.unfreeze()  # of an earlier call, for a model that is no longer served
    gc.collect()
    gc.freeze()


def watch(models: Mapping[str, str], seconds: float) -> None:
    """Send SIGHUP to this process whenever a file that the models stand for is another one, or was written.

    Args:
        models: See `find_models`.
        seconds: How often to look.
    """

    def state() -> dict[str, tuple[str, int]] | None:
        with suppress(OSError, ValueError):
            return {name: (file, Path(file).stat().st_mtime_ns) for name, file in find_models(models).items()}
        return None  # a run folder is being written or removed

    known = state()
    while True:
        time.sleep(seconds)
        if (found := state()) is not None and found != known:
            known = found
            os.kill(os.getpid(), signal.SIGHUP)
