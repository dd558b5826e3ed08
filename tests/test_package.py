"""The distribution: the content of a wheel, and that nothing installs the unrelated package called kindling."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from template import ROOT, git

TEXT = {".md", ".py", ".toml", ".yml", ".yaml", ".ipynb", ".txt", ".sh", ".json", ".html", ".jinja", ".cfg", ""}
# `pip install kindling`, `uv add "kindling[serve]"`, `pip install -U kindling==1`: anything but kindling-ml.
WRONG = re.compile(
    r"\b(?:pipx?|uv|poetry)\b[^\n`|;&#]*\b(?:install|add)\b[^\n`|;&#]*[ '\"]kindling(?![\w/.-])"
    r"|\binstall\s+['\"]?kindling(?![\w/.-])"  # with a line break between them
)
WRONG_REQUIREMENT = re.compile(r"""["']kindling(?:\[[\w,]+\])?\s*(?:[<>=~!]=?[\d ]|@ )|["']kindling\[""")


def tracked() -> list[Path]:
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [ROOT / name for name in names if Path(name).suffix in TEXT and (ROOT / name).is_file()]


def test_nothing_installs_the_unrelated_package_kindling() -> None:
    assert len(tracked()) > 200
    for path in tracked():
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not WRONG.search(text), path
        assert not WRONG_REQUIREMENT.search(text), path


@pytest.mark.parametrize(
    "command",
    ["pip install kindling", "pip install -U 'kindling[serve]'", 'uv pip install "kindling"', "uv add kindling==1"],
)
def test_a_wrong_command_would_be_found(command: str) -> None:
    assert WRONG.search(f"First type {command}")
    assert not WRONG.search(command.replace("kindling", "kindling-ml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a wheel of this repository next to the tests' dependencies; return the scripts folder."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    environment = folder / "env"
    venv.create(environment, symlinks=os.name != "nt")
    (packages,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("kindling_ml-*.whl")
    inside = ["--python", str(environment / "bin" / "python")]
    subprocess.run([*pip, *inside, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    return environment / "bin"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="folders of an environment as on Linux and macOS")
def test_an_installed_wheel_works(installed: Path, folder: Path) -> None:
    elsewhere = folder / "empty"
    elsewhere.mkdir()
    fit = [str(installed / "kindling"), "fit", "--config", "quickstart", "--config", "with/debug"]
    done = subprocess.run(fit, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test/accuracy" in done.stdout
    done = subprocess.run([installed / "kindling", "new", "leafnet"], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r'"kindling-ml @ file://.*\.whl",', (elsewhere / "leafnet/pyproject.toml").read_text())
    where = [str(installed / "python"), "-c", "import kindling; print(kindling.__file__)"]
    assert str(installed.parent) in subprocess.run(where, cwd=elsewhere, capture_output=True, text=True).stdout
