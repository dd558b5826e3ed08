"""Settings that the processes of `kindling serve` share."""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kindling.deploy.predictor import Predictor
from kindling.deploy.served_models import check_task, find_model, open_model, open_version, version_of, written_at
from kindling.utils.console import say
from kindling.utils.files import atomic_write
from kindling.utils.text import shorten

SETTINGS = "KINDLING_SERVE"  # environment variable of worker processes: the file with their settings
FILE = "settings.json"
COPIES = "models"  # subfolder


@dataclass(frozen=True)
class Settings:
    """Settings of a server process.

    Attributes:
        models: Names and what the user gave for them: checkpoints, runs or exported files.
        workers: Number of processes.
        batch_size: Maximum number of samples that are computed at once.
        max_bytes: Maximum length of the body of a request.
        access_log: See `kindling.deploy.gateway.Gateway`.
        watch_seconds: How often to look for new versions; 0 for never.
        ends_with_terminal: Whether the server ends when its terminal is closed.
        files: The files that the models stood for at the start, or at the last reload.
        times: See `written_at`.
        versions: The versions in these files: a worker that restarts later serves the same ones as the others, even
            if a file was overwritten with one that cannot be served.
        requested: Models whose newest version the last reload looked for; with workers.
        refused: Those of them that could not be loaded.
        folder: Folder in which workers collect their metrics, and which has copies of the files; empty for one process.
        parent: PID of the main process.
    """

    models: dict[str, str]
    workers: int
    batch_size: int
    max_bytes: int
    access_log: str
    watch_seconds: float
    ends_with_terminal: bool = False
    files: dict[str, str] = field(default_factory=dict)
    times: dict[str, tuple[int, int]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    folder: str = ""
    parent: int = 0

    def resolve(self) -> "Settings":
        """Return the same settings with the existing files that the models stand for now."""
        files = {name: find_model(source) for name, source in self.models.items()}
        times = {name: written_at(path) for name, path in files.items()}
        return replace(self, files={name: str(path) for name, path in files.items()}, times=times)

    def newest(self, name: str) -> "Settings":
        """Return the settings with the newest file and version of a model; with workers, those that were accepted."""
        if self.folder:
            return Settings.published()
        path = find_model(self.models[name])
        return self._with(name, path, version_of(path))

    def publish(self) -> None:
        """Hand the settings to the worker processes: to those that start, and those that reload from now on."""
        file = Path(self.folder, FILE)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as path:
            path.write_text(json.dumps(asdict(self)), "utf-8")
        os.environ[SETTINGS] = str(file)

    def is_published(self) -> bool:
        """Return whether the settings are still there: the folder of temporary files may be cleaned."""
        return Path(self.folder, FILE).exists()

    @classmethod
    def published(cls) -> "Settings":
        """Return the settings that the main process published."""
        return cls(**json.loads(Path(os.environ[SETTINGS]).read_text("utf-8")))

    def accept(self, tasks: Mapping[str, Any], names: Collection[str]) -> "Settings":
        """Return the settings with the new versions of models that can be served; `tasks` are those of all models."""
        accepted, refused = self, []
        for name in names:
            try:
                accepted = accepted._accept(name, tasks[name])
            except Exception as error:  # whatever is wrong with a new checkpoint, the old one still works
                refused.append(name)
                report_refusal(name, self.versions[name], error)
        # Those of before stay for workers that are starting.
        kept = {settings._copy(name) for settings in (self, accepted) for name in self.models}
        with suppress(OSError):  # the folder of temporary files may be cleaned meanwhile
            for path in Path(self.folder, COPIES).iterdir():
                if path not in kept:
                    path.unlink()
        return replace(accepted, requested=[*names], refused=refused)

    def keep_copies(self) -> None:
        """Copy the files, so that workers can restart after they were overwritten."""
        for name in self.models:
            self._keep_copy(name)

    def open(self, name: str) -> tuple[Predictor, str]:
        """Return a model and its version: from its file, or from the copy if the file has another version now."""
        path, version = Path(self.files[name]), self.versions[name]
        if not self.folder:
            return open_version(path, version)
        with suppress(Exception):
            if version_of(path) == version and (found := open_version(path, version))[1] == version:
                return found
        return open_model(self._copy(name)), version

    def _with(self, name: str, path: Path, version: str) -> "Settings":
        return replace(self, files=self.files | {name: str(path)}, versions=self.versions | {name: version})

    def _accept(self, name: str, task: Any) -> "Settings":
        path = find_model(self.models[name])
        version = version_of(path)
        if version != self.versions[name]:
            predictor, version = open_version(path, version)
            check_task(task, predictor.card.task)
        found = self._with(name, path, version)
        found._keep_copy(name)
        return found

    def _keep_copy(self, name: str) -> None:
        copy = self._copy(name)
        if copy.exists():
            return
        copy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(copy) as temporary:
            shutil.copyfile(self.files[name], temporary)
            if version_of(temporary) != self.versions[name]:
                raise ValueError(f"{self.files[name]} was overwritten while the server read it: try again")

    def _copy(self, name: str) -> Path:
        return Path(self.folder, COPIES, self.versions[name]).with_suffix(Path(self.files[name]).suffix)


def report_refusal(name: str, version: str, error: Exception) -> None:
    """Print why a model is not replaced."""
    say(f"{name}: still version {version}: {shorten(str(error))}", stderr=True)
