"""Random input for `test_fuzz.py`: values, command lines, configurations, tables, images and request bodies."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st
from PIL import Image

from conftest import CONFIGS

# Values that break parsers, arithmetic, paths, terminals and Python.
WORDS = """
    - -- -1 0 1 2 0.5 1e400 -1e400 1e-400 nan .nan inf .inf null true false ~ None 0x10 1_000 1,5 99999999999999999999
    2147483648 -9223372036854775809 ' " [ [1 [] [[]] {} { [1,2] [null] [true,x] {a:1} {class_path:x} {init_args:{}} * *x
    & %s {0} ${HOME} $(id) `id` ? ! @ # | > = a=b ../.. / /dev/null /nowhere/x . a/b ~/x ~nobody/x C:\\x é 日本 e\u0301
    MLPClassifier kindling.models.MLPClassifier CNNClassifier TableDataModule SyntheticDataModule kindling.models
    torch.optim.Adam SGD StepLR OneCycleLR ReduceLROnPlateau EMA SWA os.system x.y.z .. ... a. .a val/loss val/nothing
    min max configs runs runs/table best last configs/quickstart.yaml lightning.pytorch.callbacks.Timer Timer
    RichModelSummary    lightning.pytorch.loggers.CSVLogger help --help -h --config --x =
""".split()
ODD_TEXTS = [
    "",
    " ",
    "\n",
    "\t",
    "{a: }",
    "a: b: c",
    "- a",
    "--- a\n--- b",
    "&x [*x]",
    "!!python/object:os.system x",
    "!!binary x",
    "2024-01-31",
    "12:30:00",
    "[{class_path: Timer}]",
    "[{class_path: EarlyStopping, init_args: {monitor: x}}, 1]",
    "{class_path: SGD, init_args: {lr: -1}}",
    "{class_path: SGD, init_args: [1]}",
    '{"class_path": "Adam", "lr": 1}',
    "\x1b[31mred",
    "\u202eabc",
    "\ufeff1",
    "\udcff",
    "a" * 400,
    "é" * 200,
    "[" * 200,
    "[" * 3000,
    "1" * 5000,
    "a." * 200,
]
NASTY_TEXT = st.sampled_from([*WORDS, *ODD_TEXTS])
NUMBER = st.one_of(
    st.integers(-2, 40).map(str), st.floats(-2, 2).map("{:.3g}".format), st.sampled_from(["null", "true", "false"])
)
SHORT_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NASTY_VALUE = st.one_of(
    NASTY_TEXT,
    SHORT_TEXT,
    st.integers(-3, 1000),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-1, 3), max_size=3),
    st.lists(NASTY_TEXT | st.none() | st.floats(), max_size=3),
    st.dictionaries(
        st.sampled_from(["class_path", "init_args", "lr", "x", ""]), NASTY_TEXT | st.integers(), max_size=3
    ),
    st.dates(),  # plain values of YAML that JSON lacks
    st.binary(max_size=4),
    st.dictionaries(st.integers() | st.none() | st.booleans(), st.integers(), max_size=2),
)
# What would start other processes, wait, or fill the memory by request.
COSTLY = ("devices", "num_nodes", "strategy", "num_workers", "profiler", "fast_dev_run", "accelerator", "plugins")

# Options ---------------------------------------------------------------------------------------------------------

OPTIONS = """
    seed_everything ckpt_path config run_name test_after_fit overfit find_lr watch profile print_config help x.y.z
    nonsense
    model model.hidden model.dropout model.batch_norm model.label_smoothing model.weighted_loss model.optimizer
    model.mean model.std model.optimizer.lr model.optimizer.weight_decay model.optimizer.betas model.optimizer.nonsense
    model.optimizer.class_path model.optimizer.init_args model.optimizer.init_args.lr model.warmup_epochs model.nonsense
    model.help model.lr_scheduler model.lr_scheduler.step_size model.lr_scheduler.max_lr model.num_classes
    model.class_names model.input_shape model.class_path model.init_args model.init_args.hidden model.channels
    model.backbone model.checkpoints model.hidden.0
    data data.num_samples data.num_features data.num_classes data.noise data.batch_size data.eval_batch_size data.help
    data.val_split data.split_seed data.path data.predict data.target data.missing data.data_dir data.class_path
    data.init_args data.init_args.noise
    trainer trainer.max_epochs trainer.max_steps trainer.max_time trainer.min_epochs trainer.min_steps trainer.precision
    trainer.nonsense trainer.max_epochs.x
    trainer.accumulate_grad_batches trainer.gradient_clip_val trainer.gradient_clip_algorithm trainer.overfit_batches
    trainer.val_check_interval trainer.check_val_every_n_epoch trainer.limit_train_batches trainer.limit_val_batches
    trainer.limit_test_batches trainer.logger trainer.callbacks trainer.callbacks+ trainer.logger+
    trainer.deterministic trainer.benchmark trainer.detect_anomaly trainer.enable_progress_bar
    trainer.barebones trainer.log_every_n_steps trainer.enable_checkpointing trainer.num_sanity_val_steps
    trainer.default_root_dir trainer.sync_batchnorm trainer.enable_model_summary trainer.model_registry
    trainer.reload_dataloaders_every_n_epochs trainer.inference_mode trainer.use_distributed_sampler
    checkpoint checkpoint.monitor checkpoint.mode checkpoint.every_n_minutes checkpoint.every_n_steps
    early_stopping early_stopping.monitor early_stopping.patience early_stopping.mode
    averaging averaging.decay averaging.help averaging.class_path averaging.start_epoch
    out format port host workers sort package without folders
""".split()
MISSPELT = st.sampled_from(OPTIONS).flatmap(st.permutations).map("".join)
OPTION = st.one_of(*[st.sampled_from(OPTIONS)] * 7, MISSPELT)
VALUE = NUMBER | NUMBER | NASTY_TEXT | SHORT_TEXT
CLASSES = st.sampled_from(
    "MLPClassifier CNNClassifier kindling.models.MLPClassifier MLPclassifier Classifier help SyntheticDataModule "
    "DigitsDataModule kindling.data.SyntheticDataModule TableDataModule ImageFolderDataModule EMA SWA Adam os.system "
    "kindling kindling.models torch.nn.Linear".split()
)
FILES = st.sampled_from(
    "configs/synthetic_mlp.yaml configs/table_mlp.yaml configs/with/bf16.yaml configs/with/debug.yaml configs nowhere "
    "configs/synthetic_mlp.yml configs/nowhere.yaml runs/table/version_0/config.yaml /dev/null {} [] x good.csv".split()
)


@st.composite
def typed_options(draw: st.DrawFn) -> list[str]:
    """Draw one to three options with their values, as they are typed."""
    pairs = st.one_of(
        *[st.tuples(OPTION, VALUE)] * 3,
        st.tuples(
            st.sampled_from(["model", "data", "averaging", "model.optimizer", "model.help", "data.help"]), CLASSES
        ),
        st.tuples(st.just("config"), FILES),
    )
    typed: list[str] = []
    for name, value in draw(st.lists(pairs, min_size=1, max_size=3)):
        forms = [[f"--{name}={value}"], [f"--{name}", value], [f"--{name}", value] * 2, [f"--{name}"]]
        typed += draw(st.sampled_from([*forms[:2] * 3, *forms[2:]]))
    return typed


# Configurations --------------------------------------------------------------------------------------------------


def mutate(value: Any, draw: st.DrawFn) -> Any:
    """Replace, remove, add or repeat one node of nested dictionaries and lists."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value, key=repr)))
        return value | {key: value[key] if key in COSTLY else mutate(value[key], draw)}
    if isinstance(value, list | tuple) and value and draw(st.integers(0, 2)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], mutate(value[place], draw), *value[place + 1 :]]
    match draw(st.integers(0, 3)), value:
        case 0, dict() if value:
            removed = draw(st.sampled_from(sorted(value, key=repr)))
            return {name: item for name, item in value.items() if name != removed}
        case 1, dict():
            return value | {draw(SHORT_TEXT | st.sampled_from(["lr", "class_path", "init_args"])): draw(NASTY_VALUE)}
        case 0, list() | tuple():
            return list(value[1:])
        case 1, list() | tuple():
            return [*value, *(value or [None])]
    return draw(NASTY_VALUE)


def base_recipes() -> list[dict[str, Any]]:
    """Return a plain recipe, and one with an entry at every level that a recipe can have."""
    plain = yaml.safe_load((CONFIGS / "synthetic_mlp.yaml").read_text())
    plain["data"]["init_args"] = {"num_samples": 100}
    averaging = {"class_path": "EMA", "init_args": {"decay": 0.9}}
    callbacks = [
        {"class_path": "LearningRateMonitor", "init_args": {"logging_interval": "epoch"}},
        {
            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
            "init_args": {"monitor": "val/loss", "patience": 2},
        },
    ]
    logger = [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "name": "x"}}]
    full = plain | {
        "averaging": averaging,
        "checkpoint": {"monitor": "val/accuracy", "mode": "max", "every_n_minutes": 5, "every_n_steps": 2},
        "early_stopping": {"monitor": "val/loss", "mode": "min", "patience": 3},
        "trainer": {"max_epochs": 2, "gradient_clip_val": 1.0, "callbacks": callbacks, "logger": logger},
        "run_name": "fuzz",
    }
    return [plain, full]


@st.composite
def recipe_texts(draw: st.DrawFn) -> bytes:
    """Draw a recipe with a few mistakes, most in its values, some in its text or encoding."""
    recipe = draw(st.sampled_from(base_recipes()))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        recipe = mutate(recipe, draw)
    try:
        text = yaml.safe_dump(recipe, allow_unicode=True)
    except yaml.YAMLError:
        text = repr(recipe)
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(NASTY_TEXT | SHORT_TEXT) + text[place + draw(st.integers(0, 5)) :]
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "cp1252"]))
    return text.encode(encoding, errors="replace")


# Tables ----------------------------------------------------------------------------------------------------------

CELLS = """
    a b yes no 1 2 3.5 1,5 1.234,5 1e5 1e999 - NA nan 2024-01-31 31/01/24 12% $3 " "a "a"b =1+1 ' ∞ \N{MINUS SIGN}3 é
    (3) 3% €5 1.000 1.000.000 0x1F 0001 1_000 TRUE 12:30 99/99/9999 2024-02-30 1e-320 -0
""".split()
CELL = st.one_of(
    st.sampled_from([*CELLS, "", " ", "5 kg", "a\nb", "\0", '""', '"a;b"', '"a,b"', "1 000", "\u00a01", "\ufeff"]),
    st.sampled_from(["x" * 200_000, "9" * 5000, '"' * 99]),
    st.integers().map(str),
    st.floats().map(str),
    SHORT_TEXT,
)
COLUMN = st.sampled_from(["x", "kind", "y", "z", "", "Y", "x ", "x.1", '"x"', "\ufeffx", "1", "x" * 300]) | SHORT_TEXT


@st.composite
def table_files(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a table: most have a target `y`, many are ragged, quoted, cut off or oddly encoded."""
    names = draw(st.lists(COLUMN, max_size=4)) + ["y"] * draw(st.sampled_from([0, 1, 1, 1]))
    # A few kinds of row over and over, as columns of categories and classes have them.
    fewer = draw(st.sampled_from([0, 0, 1, 2]))
    row = st.lists(CELL, min_size=max(0, len(names) - fewer), max_size=len(names) + fewer)
    kinds = draw(st.lists(row, max_size=8))
    rows = [row for row in kinds * draw(st.sampled_from([1, 5, 20])) if len("".join(row)) < 1000 or row is kinds[0]]
    separators = draw(st.sampled_from([",", ";", "\t", "|", ":", " ", ",;"]))
    lines = [separators[number % len(separators)].join(row) for number, row in enumerate([names, *rows])]
    text = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).join(lines) + draw(st.sampled_from(["\n", ""]))
    encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "cp500"]))
    data = text.encode(encoding, errors="replace")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.sampled_from([b"", b"\xff", b"\0", b'"', b"\x1a", b"PK\x03\x04"]) | st.just(data))
    return data


# Images ----------------------------------------------------------------------------------------------------------


def image_bytes(mode: str, size: tuple[int, int], kind: str) -> bytes:
    """Return the file of an image; of a format that lacks the mode, only its beginning."""
    file = io.BytesIO()
    with contextlib.suppress(OSError, KeyError, ValueError):  # not every format has every mode
        Image.new(mode, size, 1).save(file, kind)
    return file.getvalue()


HUGE = image_bytes("L", (1, 1), "PNG").replace(
    np.array([1, 1], ">u4").tobytes(), np.array([2**31 - 1] * 2, ">u4").tobytes()
)
IMAGE = st.builds(
    image_bytes,
    st.sampled_from(["RGB", "RGB", "L", "1", "P", "RGBA", "I;16", "CMYK", "I", "LA", "F", "YCbCr"]),
    st.tuples(st.sampled_from([1, 2, 9, 300]), st.sampled_from([1, 7, 9])),
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "ICO", "PPM"]),
)


@st.composite
def with_damage(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw bytes of which a few are altered, or the end is missing."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


def put_folder(path: Path, data: bytes) -> None:
    """Create a folder where a file is expected."""
    path.mkdir()


def put_link(path: Path, data: bytes) -> None:
    """Create a link to another image."""
    path.symlink_to(Path("images/cat/0.png").absolute())


def put_loop(path: Path, data: bytes) -> None:
    """Create a link to its own folder."""
    path.symlink_to(path.parent.absolute())


def put_dangling(path: Path, data: bytes) -> None:
    """Create a link to nothing."""
    path.symlink_to("nowhere.png")


def put_pipe(path: Path, data: bytes) -> None:
    """Create a named pipe, from which a reader would wait for ever."""
    os.mkfifo(path)


def put_unreadable(path: Path, data: bytes) -> None:
    """Create a file that its owner may not read."""
    path.write_bytes(data)
    path.chmod(0)


PUTS = [put_folder, put_link, put_loop, put_dangling, put_pipe, put_unreadable]
PUT = st.sampled_from([Path.write_bytes] * 14 + PUTS)
FILE_NAME = st.sampled_from("a.png b.jpg c.jpeg d.gif e.txt f .g.png h.PNG i.mp4 é.png j.tif k.png.part l.svg".split())
FOLDERS = (
    ". cat dog cat bird train train/cat test/dog valid/cat val @eaDir __MACOSX .git é cat/more cat/a/b/c a,b".split()
)
FOLDER_NAME = st.sampled_from([*FOLDERS, "x" * 200, "new\nline", "\x1b[31m"])
IMAGE_FILE = st.tuples(
    FOLDER_NAME, FILE_NAME, st.one_of(IMAGE, with_damage(IMAGE), st.just(HUGE), st.binary(max_size=9)), PUT
)

# Requests --------------------------------------------------------------------------------------------------------

JSON_VALUE = st.recursive(
    NASTY_TEXT | st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["inputs", "rows", "x", "kind", "image"]) | SHORT_TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)
FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n--b--\r\n'


def as_json(value: Any) -> bytes:
    """Return JSON in UTF-8, lone surrogates escaped."""
    return json.dumps(value).encode()


def rows_of(**values: Any) -> bytes:
    """Return a body with one row of a table."""
    return as_json({"rows": [values]})


BODY = st.one_of(
    JSON_VALUE.map(as_json),
    JSON_VALUE.map(lambda value: as_json({"rows": [value]})),
    JSON_VALUE.map(lambda value: as_json({"rows": value})),
    JSON_VALUE.map(lambda value: as_json({"inputs": value})),
    st.builds(rows_of, x=JSON_VALUE, kind=JSON_VALUE),
    st.lists(st.lists(st.floats() | st.integers(), max_size=3), max_size=3).map(
        lambda value: as_json({"inputs": value})
    ),
    with_damage(st.just(rows_of(x=1.5, kind="a"))),
    st.just(rows_of(x=1, kind="a").decode().encode("utf-16")),
    st.just(b'{"rows": [{"x": 1, "x": 2}]}'),
    st.just(b'{"inputs": [[1e999, NaN]]}'),
    IMAGE,
    st.just(HUGE),
    with_damage(IMAGE),
    with_damage(IMAGE).map(lambda data: FORM.replace(b"%s", data)),
    st.integers(1, 80).map(lambda number: FORM.removesuffix(b"--b--\r\n") * number + b"--b--\r\n"),
    with_damage(st.just(FORM)),
    with_damage(st.just(b"x,kind\n1,a\n")),
    st.binary(max_size=40),
    st.integers(1, 3000).map(lambda depth: b"[" * depth),
    st.integers(1, 3000).map(lambda depth: b'{"inputs":' * depth),
)
CONTENT_TYPES = """
    application/json application/json;charset=utf-16 multipart/form-data;boundary=b multipart/form-data
    multipart/form-data;boundary= multipart/form-data;boundary="b multipart/form-data;charset=x;boundary=b
    MULTIPART/FORM-DATA;boundary=b multipart/mixed;boundary=b image/png image/jpeg text/csv text/plain
    application/octet-stream application/x-www-form-urlencoded x ;
""".split()
HEADER = st.one_of(
    st.sampled_from(CONTENT_TYPES).map(lambda kind: (b"content-type", kind.encode())),
    st.sampled_from(
        [
            (b"content-type", b"\xff"),
            (b"content-type", b""),
            (b"content-length", b"-1"),
            (b"content-length", b"x"),
            (b"content-length", b"\xb2"),
            (b"content-length", b"9" * 5000),
            (b"content-encoding", b"gzip"),
            (b"transfer-encoding", b"chunked"),
            (b"origin", b"http://evil"),
            (b"origin", b"null"),
            (b"host", b"evil"),
            (b"host", b"[::1]:x"),
            (b"authorization", b"Bearer \xff"),
            (b"accept", b"text/html"),
        ]
    ),
)
PATHS = ["/predict"] * 8 + "/predict?top=0 /predict?top=é /predict?top=1&top=x /info /health / /x /predict/".split()
PATH = st.sampled_from([*PATHS, "/predict?top=" + "9" * 99, "/" + "x" * 900, "/a\x1b[31m"])
