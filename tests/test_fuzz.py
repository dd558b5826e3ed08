"""Random mistakes in everything that a user or a client can hand in.

Whatever comes, a command ends with 0, 1 or 2 and at most one line of error; the server answers with JSON. 60 cases by
default, the same each time; `KINDLING_FUZZ_CASES=10000 pytest tests/test_fuzz.py` tries more, and others each time.
"""

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import (
    BODY,
    HEADER,
    IMAGE_FILE,
    NASTY_TEXT,
    OPTION,
    PATH,
    SHORT_TEXT,
    recipe_texts,
    table_files,
    typed_options,
)
from hypothesis import HealthCheck, event, example, given, note, settings
from hypothesis import strategies as st
from PIL import Image
from servers import app_of

from conftest import CONFIGS
from kindling import load
from kindling.cli import main

CASES = int(os.environ.get("KINDLING_FUZZ_CASES", "60"))
LONGEST = 300  # characters of a message
SECONDS = 60  # a case takes a fraction of one; more is a hang

ONE_BATCH = "--trainer.fast_dev_run 1 --trainer.accelerator cpu"
MLP = "fit --model MLPClassifier --model.hidden [4] --data SyntheticDataModule --data.num_samples 100"

# Addresses of objects, and details that only developers can use.
FOREIGN = re.compile(
    r"object at 0x|<function |<built-in |typing\.|Traceback|unexpected, in |<class '|jsonargparse|Parser key|"
    r"^kindling: error: $"
)


def share(percent: int) -> settings:
    """Return the settings of a test that runs a share of all cases."""
    return settings(
        max_examples=max(1, CASES * percent // 100),
        deadline=None,  # of a case; the alarm stops one that hangs
        database=None,
        derandomize="KINDLING_FUZZ_CASES" not in os.environ,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if a block takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


def check_command(*arguments: str) -> int:
    """Run a command and check its exit code and error line."""
    note(repr(arguments))
    before, out, err = files(), io.StringIO(), io.StringIO()
    with limited(SECONDS), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
    printed = out.getvalue() + err.getvalue()
    errors = [line for line in err.getvalue().splitlines() if line.startswith("kindling: error: ")]
    event(f"exit code {code}")
    note(err.getvalue())
    assert code in (0, 1, 2), code
    assert "Traceback" not in printed, printed
    assert len(errors) == (code > 0), err.getvalue()
    assert all(len(line) <= LONGEST for line in errors), errors
    assert not any(ord(character) < 32 for line in errors for character in line), errors
    assert not any(FOREIGN.search(line) for line in errors), errors
    assert all(len(line) > len("kindling: error: ") for line in errors), errors
    hidden = {path for path in files() - before if Path(path).name.startswith(".") and arguments[:1] != ("new",)}
    assert not hidden, "a temporary file is left"
    if code == 2:
        assert files() == before, "files of a command that was not understood"
    return code


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on a table and on images; return the folder with `runs/table` and `runs/images`."""
    folder = tmp_path_factory.mktemp("fuzz")
    with contextlib.chdir(folder):
        chance = np.random.default_rng(0)
        rows = [f"{x:.3f},{kind},{'yes' if x > 0 else 'no'}" for x, kind in zip(chance.normal(size=60), "abc" * 20)]  # noqa: B905
        Path("good.csv").write_text("\n".join(["x,kind,y", *rows, ""]))
        for number in range(16):
            Path(f"images/{'cat' if number % 2 else 'dog'}").mkdir(parents=True, exist_ok=True)
            pixels = chance.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"images/{'cat' if number % 2 else 'dog'}/{number}.png")
        short = "--model.hidden [4] --trainer.max_epochs 1 --trainer.enable_progress_bar false".split()
        table = ["--config", str(CONFIGS / "table_mlp.yaml"), "--data.path", "good.csv", "--data.target", "y"]
        images = "--model MLPClassifier --data ImageFolderDataModule --data.data_dir images --data.image_size 8".split()
        assert main(["fit", *table, *short, "--run_name", "table"]) == 0
        assert main(["fit", *images, *short, "--run_name", "images"]) == 0
    return folder


@pytest.fixture
def workplace(trained_runs: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Copy these runs and the recipes to the folder of the test."""
    shutil.copytree(trained_runs, folder, dirs_exist_ok=True)
    return folder


def skipped(*_: object, **__: object) -> list[dict[str, float]]:
    """Replace training and testing, which would take most of the time."""
    return [{"test/loss": 0.0}]


def check_fit(*arguments: str, trains: bool) -> None:
    """Check a `fit` of one batch, or one that stops before it."""
    with pytest.MonkeyPatch.context() as patch:
        reports = any(argument.startswith(("--overfit", "--find_lr")) for argument in arguments)  # on what it trained
        if not trains and not reports:
            patch.setattr("lightning.pytorch.trainer.call._call_and_handle_interrupt", skipped)
        check_command(*arguments, *ONE_BATCH.split())


TRAINS = st.sampled_from([False, False, False, True])


@share(20)
@given(typed=typed_options(), trains=TRAINS)
def test_options_of_fit(workplace: Path, typed: list[str], trains: bool) -> None:
    check_fit(*MLP.split(), *typed, trains=trains)


COMMANDS = {
    "check": ["--data", "TableDataModule", "--data.path", "--data.target", "--format", "--strict", "--ignore"],
    "validate": [],
    "test": [],
    "predict": [],
    "runs": ["show", "compare", "--sort"],
    "export": ["--format", "onnx", "torch_export"],
    "serve": ["--port", "--host", "--workers"],
    "new": ["--package", "--without", "--author"],
    "bogus": [],
    "": [],
    "--version": [],
}


@share(10)
@given(
    command=st.sampled_from(sorted(COMMANDS)),
    data=st.data(),
)
def test_command_lines(workplace: Path, command: str, data: st.DataObject) -> None:
    own = st.sampled_from([*COMMANDS[command], "--ckpt_path", "runs/table", "table", "last", "--help"])
    words = data.draw(st.lists(own | NASTY_TEXT | SHORT_TEXT | OPTION.map(lambda name: f"--{name}"), max_size=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kindling.deploy.serving_process.run_server", lambda *_: None)  # which would wait for requests
        check_command(command, *words)


@share(16)
@given(text=recipe_texts(), trains=TRAINS)
def test_recipes(workplace: Path, text: bytes, trains: bool) -> None:
    Path("recipe.yaml").write_bytes(text)
    check_fit("fit", "--config", "recipe.yaml", trains=trains)


@share(13)
@given(data=table_files(), use=st.sampled_from(["fit", "predict", "test_path"]), trains=TRAINS)
@example(data=b"y\n1.5e-141\n710763078282\na\n", use="fit", trains=False)
def test_tables(workplace: Path, data: bytes, use: str, trains: bool) -> None:
    Path("table.csv").write_bytes(data)
    if use == "predict":
        check_command("predict", "--ckpt_path", "runs/table", "--data.predict", "table.csv")
        return
    files = ["table.csv"] if use == "fit" else ["good.csv", "--data.test_path", "table.csv"]
    table = ["--config", "configs/table_mlp.yaml", "--data.target", "y", "--model.hidden", "[4]"]
    check_fit("fit", *table, "--data.path", *files, trains=trains)


@share(11)
@given(added=st.lists(IMAGE_FILE, max_size=6), skip=st.booleans(), predict=st.booleans(), trains=TRAINS)
def test_image_folders(workplace: Path, added: list[Any], skip: bool, predict: bool, trains: bool) -> None:
    shutil.rmtree("pictures", ignore_errors=True)
    shutil.copytree("images", "pictures")
    for folder, name, content, put in added:
        path = Path("pictures", folder, name)
        if os.path.lexists(path):  # writing to a pipe would wait, and to a link change another file
            continue
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError):
            path.parent.mkdir(parents=True, exist_ok=True)
            put(path, content)
    options = f"--data.skip_broken {str(skip).lower()}".split()
    if predict:
        check_command("predict", "--ckpt_path", "runs/images", "--data.predict", "pictures", *options)
        return
    source = "--data ImageFolderDataModule --data.data_dir pictures --data.image_size 8".split()
    check_fit("fit", "--model", "MLPClassifier", "--model.hidden", "[4]", *source, *options, trains=trains)


def flip(path: Path, flips: list[tuple[float, int]], kept: float) -> None:
    """Alter bytes of a file at relative places, and cut off its end."""
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    path.write_bytes(data[: int(kept * len(data))])


@share(14)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    kept=st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.0]),
    command=st.sampled_from(["predict", "test", "validate", "fit", "runs", "export"]),
)
def test_checkpoints(workplace: Path, flips: list[tuple[float, int]], kept: float, command: str) -> None:
    shutil.rmtree("stranger", ignore_errors=True)
    shutil.copytree("runs/table/version_0", "stranger")
    for name in ("best.ckpt", "last.ckpt"):
        flip(Path("stranger/checkpoints", name), flips, kept)
    options = {
        "runs": ["show", "stranger"],
        "fit": ["--ckpt_path", "stranger", "--trainer.max_epochs", "2", *ONE_BATCH.split()],
        "export": ["--ckpt_path", "stranger", "--format", "torch_export"],
    }
    check_command(command, *options.get(command, ["--ckpt_path", "stranger"]))


def without(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a copy of a dictionary that lacks one key."""
    return {key: item for key, item in value.items() if key != name}


@pytest.mark.parametrize(
    ("command", "part", "alter", "words"),
    [
        ("fit", "global_step", lambda step: None, "its global_step is None"),
        ("validate", "loops", lambda loops: without(loops, "validate_loop"), "it can't be restored (KeyError"),
        ("export", "hyper_parameters", lambda model: without(model, "_class_path"), "it has no model class"),
        ("export", "hyper_parameters", lambda model: model | {"dropout": b"x"}, "of its model is not plain"),
        ("export", "state_dict", lambda weights: weights | {"mean": {}}, "Tensor-like object"),
    ],
)
def test_an_altered_checkpoint_is_named(
    workplace: Path, capsys: pytest.CaptureFixture[str], command: str, part: str, alter: Any, words: str
) -> None:
    shutil.copytree("runs/table/version_0", "stranger")
    for path in Path("stranger/checkpoints").glob("*.ckpt"):
        stored = torch.load(path, weights_only=True)
        torch.save(stored | {part: alter(stored[part])}, path)
    more = ["--trainer.max_epochs", "2"] if command == "fit" else []
    assert main([command, "--ckpt_path", "stranger", *more]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("kindling: error: stranger/checkpoints/")
    assert words in error
    assert not FOREIGN.search(error)


class Client:
    """Calls an ASGI application without a network."""

    def __init__(self, run: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.app = self.loop.run_until_complete(self._make(run))

    async def _make(self, run: Path) -> Any:
        return app_of(load(run))

    def send(self, method: str, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        return self.loop.run_until_complete(self._send(method, path, body, headers))

    async def _send(self, method: str, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])
        gone = asyncio.Event()

        async def receive() -> Any:
            message = next(parts, None)
            if message is None:
                await gone.wait()
            return message

        async def send(message: Any) -> None:
            sent.append(message)

        path, _, query = path.partition("?")
        scope = {
            **{"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path},
            **{"query_string": query.encode(), "headers": headers, "server": ("localhost", 80), "root_path": ""},
        }
        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture(scope="module", params=["table", "images"])
def client(trained_runs: Path, request: pytest.FixtureRequest) -> Client:
    return Client(trained_runs / "runs" / request.param)


@share(8)  # of each of two servers
@given(
    body=BODY,
    headers=st.lists(HEADER, max_size=2),
    method=st.sampled_from(["POST"] * 6 + ["GET", "PUT", "HEAD", "OPTIONS", "x"]),
    path=PATH,
)
@example(body=b"x", headers=[(b"content-length", b"\xb2")], method="POST", path="/predict")
@example(body=b"x", headers=[(b"content-length", b"9" * 5000)], method="POST", path="/predict")
@example(body=b"", headers=[], method="GET", path="/" + "x" * 900)
@example(body=b"", headers=[], method="GET", path="/a\x1b[31m")
def test_http_bodies(client: Client, body: bytes, headers: list[tuple[bytes, bytes]], method: str, path: str) -> None:
    if not any(name == b"host" for name, _ in headers):
        headers = [(b"host", b"localhost"), *headers]
    with limited(SECONDS):
        status, answer = client.send(method, path, body, headers)
    assert 200 <= status < 500, (status, answer)
    if path == "/" or status == 307:  # the page, and the redirection of /predict/
        return
    told = json.loads(answer or b"{}", parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    message = "" if status == 200 else told["error"]
    assert len(message) <= LONGEST, message
    assert message.isprintable(), message
    assert not FOREIGN.search(message), message
