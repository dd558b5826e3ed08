"""A tiny real MNIST, and `kindling` as a user calls it but without the seconds that starting Python takes."""

import gc
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from jsonargparse import _typehints

from kindling.cli import main
from kindling.cli.console_logging import console_logging
from kindling.data.mnist import read_sample
from kindling.evaluation.report.html import element
from kindling.utils import plugins
from template import make_repository

pytest_plugins = ["rows"] if find_spec("rows") else []  # the table that others read too
CONFIGS = Path(__file__).parents[1] / "configs"

# The smallest real training there is: half a second.
TINY = (
    "--model MLPClassifier --model.hidden [8] --data SyntheticDataModule --data.num_samples 300 --data.batch_size 32 "
    "--trainer.max_epochs 2 --run_name tiny"
).split()


@dataclass(frozen=True)
class Result:
    """What a command leaves on the screen."""

    code: int
    out: str
    err: str


# A small network of torchvision, and the few digits on which it learns: four steps an epoch.
SHUFFLENET = "shufflenet_v2_x0_5"
TRANSFER = (
    "fit --model TransferClassifier --model.backbone shufflenet_v2_x0_5 --data DigitsDataModule --data.shots 10 "
    "--data.batch_size 20 --data.val_split 0.2 --run_name tiny --trainer.max_epochs 3 --test_after_fit false"
).split()

Command = Callable[..., Result]
Train = Callable[..., None]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Gives each of `pytest -n 2` one thread: two torch with two threads each wait for one another all the time."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the further cases of a test as slow if `quick_cases` says how many `make test` runs."""
    seen: Counter[str] = Counter()
    for item in items:
        if mark := item.get_closest_marker("quick_cases"):
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > mark.args[0]:
                item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Exempts what the tests have imported from garbage collection: each takes 0.3 s otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def settings_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs are signed with a key of the tests; nothing is written to the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in an empty folder, with the recipes at hand."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return tmp_path


@pytest.fixture
def pictures() -> None:
    """Draws the graph and the pictures of a run, half the time of a small training: only where a test asks for it."""


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what `pictures` asks for."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_graph", lambda *_: None)
        monkeypatch.setattr("kindling.training.training_plots.plot_history", lambda *_: None)
        for kind in ("predictions.ClassificationTabs", "regression.RegressionTabs"):
            monkeypatch.setattr(f"kindling.tensorboard.{kind}.write", lambda *_: None)
        monkeypatch.setattr("kindling.evaluation.report.classification.calibration_charts", lambda *_: element("p"))


@pytest.fixture(autouse=True)
def forget(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each test begins without the modules and plug-ins that another one wrote, as each command of a user does."""
    path = sys.path[:]
    yield
    sys.path[:] = path
    written = str(tmp_path_factory.getbasetemp())
    names = [
        name for name, module in [*sys.modules.items()] if str(getattr(module, "__file__", "")).startswith(written)
    ]
    for name in names:
        del sys.modules[name]
    for known in (plugins.LOADED, plugins.FILES, plugins.FOLDERS):
        known.clear()
    if names:
        _typehints._cached_class_parsers.clear()
        gc.collect()  # else classes of one test would be offered in the next


@pytest.fixture
def kindling(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command and gives its exit code and what it printed."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capfd.readouterr()
        return Result(code, printed.out, printed.err)

    return run


@pytest.fixture
def console_logs() -> Iterator[None]:
    """Print what is logged to stderr, as a command does."""
    with console_logging():
        yield


@pytest.fixture
def shown_warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Warnings reach stderr by Python's own filters, as a user sees them; pytest would collect them."""

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        monkeypatch.setattr(warnings, "showwarning", show)
        yield


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what was trained."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def trained(
    kindling: Command, kept: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Train:
    """Leaves the run that `kindling fit` leaves, but trains only once with the same options."""

    def train(*options: object) -> None:
        has_pictures = "pictures" in request.fixturenames
        runs = kept / hashlib.sha256(repr((options, has_pictures)).encode()).hexdigest()
        if not runs.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp("training"))
                assert kindling("fit", *options).code == 0
                Path("runs").rename(runs)
        shutil.copytree(runs, "runs", dirs_exist_ok=True)

    return train


def weights(checkpoint: Path | str) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint holds."""
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def different(one: Path | str, other: Path | str) -> list[str]:
    """The names of the weights that are not the same to the bit in two checkpoints."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def differences(one: Path, other: Path) -> list[str]:
    """The places in which two whole checkpoints of two runs differ at all; the runs' own folders aside."""
    ours, theirs = (torch.load(path, weights_only=True) for path in (one, other))
    return list(_differences(ours, theirs, [str(path.parent.parent) for path in (one, other)], ""))


def _differences(one: Any, other: Any, runs: list[str], place: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        ours, theirs = (
            {str(key).replace(run, "RUN"): key for key in part} for part, run in zip((one, other), runs, strict=True)
        )
        yield from (f"{place}.{key} in one alone" for key in ours.keys() ^ theirs.keys())
        for key in ours.keys() & theirs.keys():
            yield from _differences(one[ours[key]], other[theirs[key]], runs, f"{place}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, runs, f"{place}[{number}]")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not torch.equal(one, other):
            yield f"{place}: {one.flatten()[:3].tolist()}... and {other.flatten()[:3].tolist()}..."
    elif str(one).replace(runs[0], "RUN") != str(other).replace(runs[1], "RUN"):
        yield f"{place}: {one} and {other}"


CURVES = "epoch,step,train/loss,val/accuracy,val/loss\n" + "".join(
    f"{epoch},{epoch},,{epoch / 10},{1 / (epoch + 1)}\n{epoch},{epoch},{1 / (epoch + 1)},,\n" for epoch in range(5)
)


def make_run(path: str, started: str = "", accuracy: float | None = None, **record: object) -> Path:
    """A run folder as `fit` leaves it, with a record but without a training."""
    run = Path(path)
    run.mkdir(parents=True)
    best = {"epoch": 3, "val/loss": 0.5, "val/accuracy": accuracy}
    whole = {"recipe": run.parent.name, "started": started, "status": "finished", "best": best, **record}
    (run / "run.json").write_text(json.dumps(whole))
    (run / "metrics.csv").write_text(CURVES)
    return run


def write_idx(path: Path, array: torch.Tensor) -> None:
    """Writes bytes as MNIST's own files do: magic number, sizes, values."""
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4")
    path.write_bytes(header.tobytes() + array.to(torch.uint8).numpy().tobytes())


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as torchvision lays it out, with 400 training and 100 test digits."""
    folder = tmp_path_factory.mktemp("data")
    for source in ("MNIST", "FashionMNIST", "KMNIST"):
        raw = folder / source / "raw"
        raw.mkdir(parents=True)
        for prefix, split, number in (("train", "train", 400), ("t10k", "test", 100)):
            images, labels = read_sample(split)  # type: ignore[arg-type]
            chosen = torch.linspace(0, len(labels) - 1, number).long()
            write_idx(raw / f"{prefix}-images-idx3-ubyte", images[chosen, 0])
            write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[chosen])
    return folder


@pytest.fixture(scope="session")
def full_mnist() -> Path:
    """The folder of the full MNIST, where `KINDLING_DATA_DIR` names it."""
    if "KINDLING_DATA_DIR" not in os.environ:
        pytest.skip("KINDLING_DATA_DIR does not name a folder with the full MNIST")
    return Path(os.environ["KINDLING_DATA_DIR"]).resolve()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing can be downloaded, and torch's cache is empty."""

    def fail(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times an exported file for a moment instead of two seconds."""
    monkeypatch.setattr("kindling.deploy.verify.SECONDS", 0.02)


@pytest.fixture
def cached(no_network: None, tmp_path: Path) -> Path:
    """Weights of the ShuffleNet where torch keeps them after a download."""
    from torchvision import models  # takes 2 s to import

    file = tmp_path / "torch" / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(models.shufflenet_v2_x0_5().state_dict(), file)
    return file


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the template of projects, not to be changed."""
    return make_repository(tmp_path_factory.mktemp("repository") / "kindling")


@pytest.fixture
def plain_template(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`kindling new` writes from a folder without git, as a wheel has it: ten times as fast."""
    folder = tmp_path / "share"
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns(".git", "pyproject.toml"))
    monkeypatch.setattr("kindling.cli.new.SHARE", folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return folder
