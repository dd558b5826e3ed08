"""Fixtures of all tests: `kindling` runs a command in this process, `trained` trains once, `mnist` is a tiny MNIST."""

import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
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

pytest_plugins = ["rows"] if find_spec("rows") else []  # fixtures of tables, shared by several folders
CONFIGS = Path(__file__).parents[1] / "configs"

# The smallest run that really trains: half a second.
TINY = (
    "--model MLPClassifier --model.hidden [8] --data SyntheticDataModule --data.num_samples 300 --data.batch_size 32 "
    "--trainer.max_epochs 2 --run_name tiny"
).split()


LOADING = "loading PyTorch and Lightning ...\n"  # what a process prints to stderr if its imports are slow


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


# A small network of torchvision and a few digits to fine-tune it on: four steps per epoch.
SHUFFLENET = "shufflenet_v2_x0_5"
TRANSFER = (
    "fit --model TransferClassifier --model.backbone shufflenet_v2_x0_5 --data DigitsDataModule --data.shots 10 "
    "--data.batch_size 20 --data.val_split 0.2 --run_name tiny --trainer.max_epochs 3 --test_after_fit false"
).split()

Command = Callable[..., Result]
Train = Callable[..., None]


def pytest_configure() -> None:
    """Take Ctrl-C although a shell that starts a command in the background makes it ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Give each process of `pytest -n` one thread: more threads than cores slow each other down."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of a test beyond the number in its `quick_cases` mark as slow."""
    seen: Counter[str] = Counter()
    for item in items:
        if mark := item.get_closest_marker("quick_cases"):
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > mark.args[0]:
                item.add_marker("slow")


def pytest_collection_finish() -> None:
    exempt_modules()


def exempt_modules() -> None:
    """Exempt imported modules from garbage collection, where each pass over them takes 0.3 s."""
    if len(sys.modules) > EXEMPT[0] + 200:
        gc.collect()
        gc.freeze()
        EXEMPT[0] = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def settings_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sign runs with a key of the tests, and write nothing to the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CONFIG", "CACHE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(kind.lower())))
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in a new folder that contains only the recipes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return tmp_path


@pytest.fixture
def pictures() -> None:
    """Draw the graph and all plots of a run; other tests skip them, which halves the time of a small run."""


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip graph and plots unless the test uses `pictures`."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_graph", lambda *_: None)
        monkeypatch.setattr("kindling.training.training_plots.plot_history", lambda *_: None)
        tabs = ("predictions.ClassificationTabs", "regression.RegressionTabs", "multilabel.MultiLabelTabs")
        for kind in tabs:
            monkeypatch.setattr(f"kindling.tensorboard.{kind}.write", lambda *_: None)
        for charts in ("calibration.calibration_charts", "columns.dependence_charts"):
            monkeypatch.setattr(f"kindling.evaluation.report.{charts}", lambda *_: element("p"))


EXEMPT = [0]  # number of modules at the last `exempt_modules`
KEPT: dict[str, ModuleType] = {}  # modules that no test has written, so that each test looks only at new ones


@pytest.fixture(autouse=True)
def unload_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unload the modules and plug-ins that a test has written, so that the next one starts without them."""
    exempt_modules()
    path = sys.path[:]
    yield
    sys.path[:] = path
    written = str(tmp_path_factory.getbasetemp())
    new = {name: module for name, module in [*sys.modules.items()] if KEPT.get(name) is not module}
    names = [name for name, module in new.items() if str(getattr(module, "__file__", "")).startswith(written)]
    KEPT.update((name, module) for name, module in new.items() if name not in names)
    for name in names:
        del sys.modules[name]
    for known in (plugins.LOADED, plugins.FILES, plugins.FOLDERS):
        known.clear()
    if names:
        _typehints._cached_class_parsers.clear()
        gc.collect()  # otherwise the classes of one test could be chosen in the next


@pytest.fixture
def kindling(capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command in this process and returns its exit code and output."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kindling.cli.entry_point._loading", lambda _: nullcontext())  # prints a line if slow
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as stop:
                code = int(stop.code or 0)
        printed = capfd.readouterr()
        return Result(code, printed.out, printed.err)

    return run


@pytest.fixture
def console_logs() -> Iterator[None]:
    """Print log messages to stderr, as a command does."""
    with console_logging():
        yield


@pytest.fixture
def shown_warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Print warnings to stderr with Python's own filters, as users see them; pytest would collect them."""

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        monkeypatch.setattr(warnings, "showwarning", show)
        yield


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs that `trained` copies."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def trained(
    kindling: Command, run_cache: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Train:
    """Return a function that creates the run of `kindling fit`, but trains only once for the same options."""

    def train(*options: object) -> None:
        has_pictures = "pictures" in request.fixturenames
        runs = run_cache / hashlib.sha256(repr((options, has_pictures)).encode()).hexdigest()
        if not runs.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp("training"))
                assert kindling("fit", *options).code == 0
                Path("runs").rename(runs)
        shutil.copytree(runs, "runs", dirs_exist_ok=True)

    return train


def weights(checkpoint: Path | str) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def different(one: Path | str, other: Path | str) -> list[str]:
    """Return the names of the weights that are not bit-identical in two checkpoints."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def differences(one: Path, other: Path) -> list[str]:
    """Return where the entire contents of two checkpoints differ, apart from the paths of their runs."""
    ours, theirs = (torch.load(path, weights_only=True) for path in (one, other))
    return list(_differences(ours, theirs, [str(path.parent.parent) for path in (one, other)], ""))


def _differences(one: Any, other: Any, runs: list[str], place: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        ours, theirs = (
            {str(key).replace(run, "RUN"): key for key in part} for part, run in zip((one, other), runs, strict=True)
        )
        yield from (f"{place}.{key} in only one of them" for key in ours.keys() ^ theirs.keys())
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
    """Create a run folder like that of `fit`, with `run.json` and `metrics.csv`, without training."""
    run = Path(path)
    run.mkdir(parents=True)
    best = {"epoch": 3, "val/loss": 0.5, "val/accuracy": accuracy}
    whole = {"recipe": run.parent.name, "started": started, "status": "finished", "best": best, **record}
    (run / "run.json").write_text(json.dumps(whole))
    (run / "metrics.csv").write_text(CURVES)
    return run


def write_idx(path: Path, array: torch.Tensor) -> None:
    """Write bytes in the format of MNIST's files: magic number, sizes, values."""
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4")
    path.write_bytes(header.tobytes() + array.to(torch.uint8).numpy().tobytes())


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in torchvision's layout, with 400 training and 100 test digits."""
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
    """Return the folder of the full MNIST from `KINDLING_DATA_DIR`; skip the test if it is not set."""
    if "KINDLING_DATA_DIR" not in os.environ:
        pytest.skip("KINDLING_DATA_DIR does not name a folder with the full MNIST")
    return Path(os.environ["KINDLING_DATA_DIR"]).resolve()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make downloads fail, and empty torch's cache."""

    def fail(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time an exported file for 0.02 s instead of two seconds, and compare it on smaller photographs."""
    monkeypatch.setattr("kindling.deploy.verify.SECONDS", 0.02)
    monkeypatch.setattr("kindling.deploy.verify_photos.SIDES", (32, 200))


@pytest.fixture
def cached(no_network: None, tmp_path: Path) -> Path:
    """Put weights of the ShuffleNet into torch's cache, as if they had been downloaded."""
    from torchvision import models  # takes 2 s to import

    file = tmp_path / "torch" / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(models.shufflenet_v2_x0_5().state_dict(), file)
    return file


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a git repository with the project template; tests must not change it."""
    return make_repository(tmp_path_factory.mktemp("repository") / "kindling")


@pytest.fixture
def plain_template(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `kindling new` copy from a folder without git, as in a wheel, which is ten times as fast."""
    folder = tmp_path / "share"
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns(".git", "pyproject.toml"))
    monkeypatch.setattr("kindling.cli.new.SHARE", folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return folder
