"""Loads new versions of models into a running server.

The sequence: `watch` or SIGHUP calls `reload` in `build_app`, which calls `reload_model` for each model. That finds the
newest version, loads it (`open_version`), and hands it to `ServedModel.replace`. With several workers, the main process
first decides for all of them (`Workers.keep_subprocess_alive` and `Settings.accept`), and then sends each one SIGHUP.
"""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kindling.deploy.served_models import ServedModel, find_model, written_at
from kindling.deploy.settings import Settings, report_refusal
from kindling.runs.folders import run_folder_of
from kindling.runs.metadata import RunMetadata, status_of
from kindling.utils.console import say


def reload_model(model: ServedModel, settings: Settings) -> bool:
    """Serve the newest version of a model; print and keep the previous one if that fails. Return whether it is new."""
    result = "unchanged"
    try:
        settings = settings.newest(model.name)
        path = Path(settings.files[model.name])
        if settings.versions[model.name] != model.current.version:
            predictor, version = settings.open(model.name)
            model.replace(predictor, version)
            result = "loaded"
            say(f"{model.name}: now version {version}, {path}", stderr=True)
        elif settings.folder and model.name not in settings.requested:
            return False
        elif model.name in settings.refused:  # the main process has printed the reason
            result = "failed"
        else:
            model.read_metrics_again(path)
    except Exception as error:  # whatever is wrong with a new checkpoint, the old one still works
        result = "failed"
        report_refusal(model.name, model.current.version, error)
    model.metrics.reloaded(model.name, result)
    return result == "loaded"


def freeze_garbage_collector() -> None:
    """Exclude the objects that exist now, a million of torch and the models, from the search for unused cycles.

    The search would stop all requests now and then; here it does once, for about half a second.
    """
    gc.unfreeze()  # of an earlier call, for a model that is no longer served
    gc.collect()
    gc.freeze()


@contextmanager
def watch(settings: Settings, reload: Callable[[list[str]], object]) -> Iterator[None]:
    """Watch the served models in a background thread, and call `reload` with the names of those that have changed.

    A model has changed if its checkpoint is another file, or was written. Checkpoints of a run that is still training
    are ignored: they change with each better epoch.
    """
    ended = threading.Event()

    def look() -> None:
        known = {name: (settings.files[name], settings.times[name]) for name in settings.models}
        while not ended.wait(settings.watch_seconds):
            changed = []
            for name, source in settings.models.items():
                with suppress(OSError, ValueError):  # a run folder is being written or removed
                    path = find_model(source)
                    found = str(path), written_at(path)
                    if found != known[name] and not is_training(path):
                        known[name] = found
                        changed.append(name)
            if changed:
                reload(changed)

    if settings.watch_seconds:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def is_training(checkpoint: Path) -> bool:
    """Return whether the run of a checkpoint is still training."""
    return status_of(RunMetadata.read(run_folder_of(checkpoint))) == "running"
