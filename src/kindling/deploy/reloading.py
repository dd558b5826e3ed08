"""Loads new versions of models into a running server."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from kindling.deploy.served_models import ServedModel, find_model, open_version, version_of
from kindling.deploy.settings import Settings
from kindling.utils.console import say
from kindling.utils.text import shorten


def reload_model(model: ServedModel, where: str) -> bool:
    """Serve the newest version of a model, or the previous one if that fails, and print a line.

    Returns:
        Whether it was replaced.
    """
    try:
        path = find_model(where)
        version = version_of(path)
        if version == model.current.version:
            model.metrics.reloaded(model.name, "unchanged")
            return False
        predictor, version = open_version(path)
        model.replace(predictor, version)
    except Exception as error:  # whatever is wrong with a new checkpoint, the old one still works
        model.metrics.reloaded(model.name, "failed")
        say(f"{model.name}: still version {model.current.version}: {shorten(str(error))}", stderr=True)
        return False
    model.metrics.reloaded(model.name, "loaded")
    say(f"{model.name}: now version {version}, {path}")
    return True


def keep_objects() -> None:
    """Exclude the objects that exist now, a million of torch and the models, from the search for unused cycles.

    It would stop all requests for a tenth of a second now and then.
    """
    gc.unfreeze()  # of an earlier call, for a model that is no longer served
    gc.collect()
    gc.freeze()


@contextmanager
def watch(settings: Settings, reload: Callable[[], object]) -> Iterator[None]:
    """Call `reload` in a thread whenever a file that the models stand for is another one, or was written.

    Args:
        settings: The models, the files that they stood for before they were loaded, and how often to look.
        reload: What to call.
    """
    ended = threading.Event()

    def look() -> None:
        known = settings.files, settings.times
        while not ended.wait(settings.watch_seconds):
            with suppress(OSError, ValueError):  # a run folder is being written or removed
                now = settings.resolve()
                if (now.files, now.times) != known:
                    known = now.files, now.times
                    reload()

    if settings.watch_seconds:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
