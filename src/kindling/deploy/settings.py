"""What the processes of `kindling serve` serve."""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kindling.deploy.predictor import Predictor
from kindling.deploy.served_models import find_model, find_models, open_model, open_version, version_of

SETTINGS = "KINDLING_SERVE"  # environment variable that configures worker processes
COPIES = "models"  # subfolder


@dataclass(frozen=True)
class Settings:
    """What a process serves.

    Attributes:
        models: Names and what the user gave for them: checkpoints, runs or exported files.
        workers: Number of processes.
        batch_size: Maximum number of samples that are computed at once.
        max_bytes: Maximum length of the body of a request.
        access_log: See `kindling.deploy.gateway.Gateway`.
        watch_seconds: How often to look for new versions; 0 for never.
        ends_with_terminal: Whether the server ends when its terminal is closed.
        files: The files that the models stood for at the start, or at the last reload.
        times: When these files were written, in nanoseconds.
        versions: The versions in these files: a worker that restarts later serves the same ones as the others, even
            if a file was overwritten with one that cannot be served.
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
    times: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    parent: int = 0

    def resolve(self) -> "Settings":
        """Return the same settings with the files that the models stand for now.

        Raises:
            FileNotFoundError: If there is none for a model.
        """
        files = find_models(self.models)
        return replace(self, files=files, times={name: Path(file).stat().st_mtime_ns for name, file in files.items()})

    def publish(self) -> None:
        """Hand the settings to the worker processes that start from now on."""
        os.environ[SETTINGS] = json.dumps(asdict(self))

    @classmethod
    def published(cls) -> "Settings":
        """Return what was handed to this process."""
        return cls(**json.loads(os.environ[SETTINGS]))

    def accept(self, tasks: Mapping[str, Any]) -> "Settings":
        """Return the same settings with the new version of each model that can be served; the others stay.

        Args:
            tasks: The task of each model, by its name.
        """
        accepted = self
        for name, where in self.models.items():
            with suppress(Exception):  # the workers report it
                path = find_model(where)
                if version_of(path) == self.versions[name]:
                    continue
                predictor, version = open_version(path)
                if predictor.card.task == tasks[name]:
                    files, versions = accepted.files | {name: str(path)}, accepted.versions | {name: version}
                    found = replace(accepted, files=files, versions=versions)
                    found._keep_copy(name)
                    accepted = found
        # Those of before stay for workers that are starting.
        kept = {settings._copy(name) for settings in (self, accepted) for name in self.models}
        for path in Path(self.folder, COPIES).iterdir():
            if path not in kept:
                path.unlink()
        return accepted

    def keep_copies(self) -> None:
        """Copy the files, so that workers can restart after they were overwritten.

        Raises:
            ValueError: If one was overwritten since it was loaded.
        """
        Path(self.folder, COPIES).mkdir()
        for name in self.models:
            self._keep_copy(name)

    def open(self, name: str) -> Predictor:
        """Load the version of a model from its file, or from the copy if the file has another one now."""
        with suppress(Exception):
            predictor, version = open_version(Path(self.files[name]))
            if version == self.versions[name]:
                return predictor
        return open_model(self._copy(name))

    def _keep_copy(self, name: str) -> None:
        copy = self._copy(name)
        shutil.copyfile(self.files[name], copy)
        if version_of(copy) != self.versions[name]:
            raise ValueError(f"{self.files[name]} was overwritten while the server read it: start it again")

    def _copy(self, name: str) -> Path:
        return Path(self.folder, COPIES, self.versions[name]).with_suffix(Path(self.files[name]).suffix)
