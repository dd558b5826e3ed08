"""Random mistakes in everything that a user or a client can hand in.

Whatever comes, a command ends with 0, 1 or 2 and at most one line of error; the server answers with JSON. 300 cases by
default; `KINDLING_FUZZ_CASES=10000 pytest tests/test_fuzz.py` tries more.
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
import yaml
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import CONFIGS
from kindling import load
from kindling.cli import main
from kindling.deploy.server import Service

CASES = int(os.environ.get("KINDLING_FUZZ_CASES", "300"))
LONGEST = 300  # characters of a message
SECONDS = 60  # a case takes a fraction of one; more is a hang

ONE_BATCH = "--trainer.fast_dev_run 1 --trainer.accelerator cpu"
MLP = "fit --model MLPClassifier --model.hidden [4] --data SyntheticDataModule --data.num_samples 100"

# Values that break parsers, arithmetic, paths, terminals and Python.
WORDS = """
    - -- -1 0 1 2 0.5 1e400 -1e400 nan inf null true false ~ None 0x10 1_000 1,5 ' " [ [1 [] [[]] { {} *x %s {0} ${HOME}
    ../.. / /dev/null /nowhere/x . a/b é 日本 MLPClassifier torch.optim.Adam SGD os.system x.y.z val/loss min configs
    configs/quickstart.yaml lightning.pytorch.callbacks.Timer
""".split()
NASTY_TEXT = st.sampled_from(
    [
        *WORDS,
        "",
        " ",
        "{a: }",
        "a: b: c",
        "- a",
        "!!python/object:os.system x",
        "\x1b[31mred",
        "\n",
        "\u202e",
        "a" * 400,
    ]
)
NUMBER = st.one_of(
    st.integers(-2, 40).map(str), st.floats(-2, 2).map("{:.3g}".format), st.sampled_from(["null", "true"])
)
SHORT_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NASTY_VALUE = st.one_of(
    NASTY_TEXT,
    SHORT_TEXT,
    st.integers(-3, 1000),
    st.floats(),
    st.none(),
    st.booleans(),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.sampled_from(["class_path", "init_args", "lr", "x"]), NASTY_TEXT, max_size=2),
)
# What would start other processes, wait, or fill the memory by request.
COSTLY = ("devices", "num_nodes", "strategy", "num_workers", "profiler", "fast_dev_run", "accelerator", "plugins")


def share(percent: int) -> settings:
    """Settings of a test that takes so many of all cases."""
    return settings(
        max_examples=max(1, CASES * percent // 100),
        deadline=None,  # of a case; the alarm stops one that hangs
        database=None,
        derandomize=CASES == 300,  # the same cases in every run of the tests
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what takes longer."""

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
    """Runs a command and checks how it ends."""
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
    assert code in (0, 1, 2), code
    assert "Traceback" not in printed, printed
    assert len(errors) == (code > 0), err.getvalue()
    assert all(len(line) <= LONGEST for line in errors), errors
    assert not any(ord(character) < 32 or " at 0x" in line for line in errors for character in line), errors
    assert not any(re.search(r"unexpected, in \S*kindling/", line) for line in errors), errors
    hidden = {path for path in files() - before if Path(path).name.startswith(".")}
    assert not hidden, "a temporary file is left"
    if code == 2:
        assert files() == before, "files of a command that was not understood"
    return code


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of a table and one of images, `runs/table` and `runs/images`."""
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
    """The same, and the recipes, in the folder of the test."""
    shutil.copytree(trained_runs, folder, dirs_exist_ok=True)
    return folder


OPTIONS = """
    seed_everything ckpt_path config run_name test_after_fit overfit find_lr watch profile print_config help x.y.z
    nonsense
    model model.hidden model.dropout model.batch_norm model.label_smoothing model.weighted_loss model.optimizer
    model.mean model.optimizer.lr model.optimizer.weight_decay model.warmup_epochs model.nonsense model.help
    model.lr_scheduler
    model.lr_scheduler.step_size model.num_classes model.class_names
    data data.num_samples data.num_features data.num_classes data.noise data.batch_size data.eval_batch_size data.help
    data.val_split data.split_seed data.path data.predict
    trainer trainer.max_epochs trainer.max_steps trainer.max_time trainer.min_epochs trainer.precision trainer.nonsense
    trainer.accumulate_grad_batches trainer.gradient_clip_val trainer.gradient_clip_algorithm trainer.overfit_batches
    trainer.val_check_interval trainer.check_val_every_n_epoch trainer.limit_train_batches trainer.limit_val_batches
    trainer.limit_test_batches trainer.logger trainer.callbacks trainer.deterministic trainer.benchmark
    trainer.barebones trainer.log_every_n_steps trainer.enable_checkpointing trainer.num_sanity_val_steps
    trainer.default_root_dir
    trainer.reload_dataloaders_every_n_epochs trainer.inference_mode trainer.use_distributed_sampler
    checkpoint checkpoint.monitor checkpoint.mode early_stopping early_stopping.monitor early_stopping.patience
    early_stopping.mode
""".split()
OPTION = st.sampled_from(OPTIONS) | st.sampled_from(OPTIONS).flatmap(st.permutations).map("".join)


@share(20)
@given(
    added=st.lists(st.tuples(OPTION, NUMBER | NUMBER | NASTY_TEXT | SHORT_TEXT, st.booleans()), min_size=1, max_size=3)
)
def test_options_of_fit(workplace: Path, added: list[tuple[str, str, bool]]) -> None:
    typed = [f"--{name}={value}" if joined else (f"--{name}", value) for name, value, joined in added]
    flat = [part for one in typed for part in ([one] if isinstance(one, str) else one)]
    check_command(*MLP.split(), *flat, *ONE_BATCH.split())


@share(10)
@given(
    command=st.sampled_from(["validate", "test", "predict", "runs", "export", "bogus", "fit"]),
    words=st.lists(NASTY_TEXT | SHORT_TEXT | OPTION.map(lambda name: f"--{name}"), max_size=3),
)
def test_command_lines(workplace: Path, command: str, words: list[str]) -> None:
    if command == "fit":
        words = [*words, *ONE_BATCH.split()]
    check_command(command, *words)


def mutate(value: Any, draw: st.DrawFn) -> Any:
    """The same configuration with one node replaced, removed or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: value[key] if key in COSTLY else mutate(value[key], draw)}
    if isinstance(value, dict) and value and draw(st.booleans()):
        removed = draw(st.sampled_from(sorted(value)))
        return {name: held for name, held in value.items() if name != removed}
    if isinstance(value, dict) and draw(st.booleans()):
        return value | {draw(SHORT_TEXT): draw(NASTY_VALUE)}
    return draw(NASTY_VALUE)


@st.composite
def recipe_texts(draw: st.DrawFn) -> str:
    recipe = yaml.safe_load((CONFIGS / "synthetic_mlp.yaml").read_text())
    recipe["data"]["init_args"] = {"num_samples": 100}
    text = yaml.safe_dump(mutate(recipe, draw), allow_unicode=True)
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(NASTY_TEXT | SHORT_TEXT) + text[place + draw(st.integers(0, 5)) :]
    return text


@share(15)
@given(text=recipe_texts())
def test_recipes(workplace: Path, text: str) -> None:
    note(text)
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    check_command("fit", "--config", "recipe.yaml", *ONE_BATCH.split())


CELLS = """
    a b yes no 1 2 3.5 1,5 1.234,5 1e5 1e999 - NA nan 2024-01-31 31/01/24 12% $3 " "a =1+1 ' ∞ \N{MINUS SIGN}3 é
""".split()
CELL = st.one_of(
    st.sampled_from([*CELLS, "", " ", "5 kg", "a\nb", "\0"]),
    st.integers().map(str),
    st.floats().map(str),
    SHORT_TEXT,
)


@st.composite
def table_files(draw: st.DrawFn) -> bytes:
    names = draw(st.lists(st.sampled_from(["x", "kind", "y", "z", "", "Y", "x "]) | SHORT_TEXT, min_size=1, max_size=4))
    names += ["y"] * draw(st.integers(0, 1))
    # A few kinds of row over and over, as columns of categories and classes have them.
    kinds = draw(st.lists(st.lists(CELL, min_size=len(names) - 1, max_size=len(names) + 1), min_size=1, max_size=8))
    rows = kinds * draw(st.sampled_from([1, 5, 20]))
    separator = draw(st.sampled_from([",", ";", "\t", "|"]))
    text = draw(st.sampled_from(["\n", "\r\n"])).join(separator.join(row) for row in [names, *rows])
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    data = text.encode(encoding, errors="replace")
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


@share(20)
@given(data=table_files(), predict=st.booleans())
def test_tables(workplace: Path, data: bytes, predict: bool) -> None:
    note(repr(data))
    Path("table.csv").write_bytes(data)
    if predict:
        check_command("predict", "--ckpt_path", "runs/table", "--data.predict", "table.csv")
        return
    table = ["--config", "configs/table_mlp.yaml", "--data.path", "table.csv", "--data.target", "y"]
    check_command("fit", *table, "--model.hidden", "[4]", *ONE_BATCH.split())


def image_bytes(mode: str, size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    with contextlib.suppress(OSError, KeyError, ValueError):  # not every format has every mode
        Image.new(mode, size, 1).save(file, kind)
    return file.getvalue()


IMAGE = st.builds(
    image_bytes,
    st.sampled_from(["RGB", "RGB", "L", "1", "P", "RGBA", "I;16", "CMYK", "I", "LA"]),
    st.tuples(st.sampled_from([1, 2, 9, 300]), st.sampled_from([1, 7, 9])),
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]),
)


@st.composite
def with_damage(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


FILE_NAME = st.sampled_from("a.png b.jpg c.jpeg d.gif e.txt f .g.png h.PNG i.mp4 é.png j.tif".split())
FOLDER_NAME = st.sampled_from("cat dog train/cat test/dog valid/cat @eaDir __MACOSX é cat/more".split())


@share(10)
@given(
    added=st.lists(
        st.tuples(FOLDER_NAME, FILE_NAME, st.one_of(IMAGE, with_damage(IMAGE), st.binary(max_size=9))), max_size=6
    ),
    skip=st.booleans(),
    predict=st.booleans(),
)
def test_image_folders(workplace: Path, added: list[tuple[str, str, bytes]], skip: bool, predict: bool) -> None:
    shutil.rmtree("pictures", ignore_errors=True)
    shutil.copytree("images", "pictures")
    for folder, name, data in added:
        Path("pictures", folder).mkdir(parents=True, exist_ok=True)
        Path("pictures", folder, name).write_bytes(data)
    note(str([(folder, name, len(data)) for folder, name, data in added]))
    options = f"--data.skip_broken {str(skip).lower()}".split()
    if predict:
        check_command("predict", "--ckpt_path", "runs/images", "--data.predict", "pictures", *options)
        return
    source = "--data ImageFolderDataModule --data.data_dir pictures --data.image_size 8".split()
    check_command("fit", "--model", "MLPClassifier", "--model.hidden", "[4]", *source, *options, *ONE_BATCH.split())


@st.composite
def spoilt_checkpoints(draw: st.DrawFn) -> Any:
    """Either bytes that were flipped or cut off, or a value inside that is another."""
    if draw(st.booleans()):
        return draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)), draw(
            st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.0])
        )
    keys = ["hyper_parameters", "datamodule_hyper_parameters", "state_dict", "global_step", "epoch", "TableDataModule"]
    keys += ["loops", "callbacks", "optimizer_states", "lr_schedulers", "checksums"]
    inner = ["_class_path", "num_classes", "input_shape", "class_names", "hidden", "mean", "columns", "classes", "path"]
    return draw(st.sampled_from(keys)), draw(st.sampled_from([None, *inner])), draw(NASTY_VALUE)


def spoil(checkpoint: Path, how: Any) -> None:
    if isinstance(how[0], str):
        outer, inner, value = how
        stored = torch.load(checkpoint, weights_only=True)
        if inner is None:
            stored[outer] = value
        else:
            stored[outer] = {**stored[outer], inner: value} if isinstance(stored[outer], dict) else value
        if outer != "checksums":
            del stored["checksums"]  # which would be all that is found
        torch.save(stored, checkpoint)
        return
    flips, kept = how
    data = bytearray(checkpoint.read_bytes())
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    checkpoint.write_bytes(data[: int(kept * len(data))])


@share(15)
@given(how=spoilt_checkpoints(), command=st.sampled_from(["predict", "test", "fit", "runs", "export"]))
def test_checkpoints(workplace: Path, how: Any, command: str) -> None:
    shutil.rmtree("stranger", ignore_errors=True)
    shutil.copytree("runs/table/version_0", "stranger")
    for name in ("best.ckpt", "last.ckpt"):
        spoil(Path("stranger/checkpoints", name), how)
    options = {
        "runs": ["show", "stranger"],
        "fit": ["--ckpt_path", "stranger", "--trainer.max_epochs", "2", *ONE_BATCH.split()],
        "export": ["--ckpt_path", "stranger", "--format", "torch_export"],
    }
    check_command(command, *options.get(command, ["--ckpt_path", "stranger"]))


class Client:
    """Calls an ASGI application without a network."""

    def __init__(self, run: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.app = self.loop.run_until_complete(self._make(run))

    async def _make(self, run: Path) -> Any:
        return Service(load(run)).app()

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


JSON_VALUE = st.recursive(
    NASTY_TEXT | st.none() | st.booleans() | st.floats() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["inputs", "rows", "x", "kind", "image"]) | SHORT_TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)
FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n--b--\r\n'
BODY = st.one_of(
    JSON_VALUE.map(json.dumps).map(str.encode),
    JSON_VALUE.map(lambda value: json.dumps({"rows": [value]}).encode()),
    JSON_VALUE.map(lambda value: json.dumps({"inputs": value}).encode()),
    IMAGE,
    with_damage(IMAGE),
    with_damage(IMAGE).map(lambda data: FORM.replace(b"%s", data)),
    with_damage(st.just(FORM)),
    st.binary(max_size=40),
    st.integers(1, 3000).map(lambda depth: b"[" * depth),
)
HEADER = st.sampled_from(
    [
        (b"content-type", b"application/json"),
        (b"content-type", b"multipart/form-data; boundary=b"),
        (b"content-type", b"multipart/form-data"),
        (b"content-type", b"\xff"),
        (b"content-length", b"-1"),
        (b"content-length", b"x"),
        (b"content-encoding", b"gzip"),
        (b"transfer-encoding", b"chunked"),
        (b"origin", b"http://evil"),
        (b"host", b"evil"),
        (b"authorization", b"Bearer \xff"),
    ]
)


@share(10)
@given(
    body=BODY,
    headers=st.lists(HEADER, max_size=2),
    method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT"]),
    path=st.sampled_from(["/predict", "/predict", "/predict?top=0", "/predict?top=é", "/info", "/x"]),
)
def test_http_bodies(client: Client, body: bytes, headers: list[tuple[bytes, bytes]], method: str, path: str) -> None:
    if not any(name == b"host" for name, _ in headers):
        headers = [(b"host", b"localhost"), *headers]
    with limited(SECONDS):
        status, answer = client.send(method, path, body, headers)
    assert 200 <= status < 500, (status, answer)
    told = json.loads(answer, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert status == 200 or len(told["error"]) <= LONGEST
