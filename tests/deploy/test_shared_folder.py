import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kindling.deploy import shared_folder as module
from kindling.deploy.shared_folder import shared_folder

HOLD = """
from kindling.deploy.shared_folder import shared_folder
with shared_folder() as folder:
    print(folder, flush=True)
    input()
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_folders_of_servers_that_were_killed_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(module, "CREATION_SECONDS", -1)
    other = folder / "kindling-serve-of-somebody"
    other.mkdir()
    command = [sys.executable, "-c", HOLD]
    killed, running = (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)}
        )
        for _ in range(2)
    )
    assert killed.stdout
    assert running.stdout
    left, used = (Path(stdout.readline().strip()) for stdout in (killed.stdout, running.stdout))
    killed.kill()
    killed.wait()
    (left / "model").touch()
    with shared_folder() as created:
        assert {*folder.glob("kindling-serve-*")} == {other, used, Path(created)}
    running.communicate("\n")
    assert [*folder.glob("kindling-serve-*")] == [other]
