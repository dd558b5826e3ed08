"""The ONNX file of a table, which takes raw rows: compared with Python's encoding and with `kindling predict`."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from numpy.typing import NDArray

from conftest import Command, Train
from kindling.data.tables.columns import learn_columns
from kindling.data.tables.dates import as_days
from kindling.data.tables.rows import encode_rows, frame_cells, width
from kindling.data.tables.typed_rows import encode_typed, read_typed
from kindling.deploy.model_card import ModelCard
from kindling.deploy.onnx_dates import add_days
from kindling.deploy.onnx_file import load_onnx
from kindling.deploy.onnx_graph import OPSET, OnnxGraph
from kindling.deploy.onnx_rows import add_encoding
from kindling.deploy.verify_rows import make_up_rows
from rows import FIT, customers

pytestmark = pytest.mark.usefixtures("quick_proof")

RUN = Path("runs/tables/version_0")
FILE = RUN / "export/model.onnx"
EDGES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-300, 1e300, -1e300, 2.0**53, -999.0]


def model_of(columns: list[dict[str, Any]]) -> tuple[Any, str]:
    """Return an ONNX model that returns the encoded features, and their name."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    tensors = [
        helper.make_tensor_value_info(name, kind, ["batch", sum(map(width, columns))]) for name in ("x", "logits")
    ]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["logits"])], "network", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    features = add_encoding(model, columns)
    onnx.checker.check_model(model)
    return model, features


def encode(columns: list[dict[str, Any]], values: list[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the features that the operators compute."""
    model, _ = model_of(columns)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [each.name for each in session.get_inputs()]
    found: NDArray[np.float32] = session.run(None, dict(zip(names, values, strict=True)))[0]
    return found


def learn(frame: pd.DataFrame, targets: NDArray[Any], missing: Sequence[str] = ()) -> list[dict[str, Any]]:
    names = [{"name": name} for name in frame]
    return learn_columns(frame_cells(frame, names, missing), targets, len(frame), missing=missing)[0]


def test_the_operators_encode_as_python_does() -> None:
    random = np.random.default_rng(0)
    rows = 3000
    codes = random.integers(10_000, 10_200, rows)
    moments = pd.Timestamp("2021-03-01") + pd.to_timedelta(random.integers(0, 86400 * 700, rows), "s")
    frame = pd.DataFrame(
        {
            "income": random.lognormal(10, 1, rows).round(2),
            "account": 1.7e15 + random.integers(0, 10**9, rows),  # float32 can't tell these apart
            "score": np.where(random.random(rows) < 0.2, -999, random.normal(size=rows)),
            "logits": random.normal(size=rows),  # the name of an output
            "kindling/network/x": np.where(random.random(rows) < 0.1, np.nan, random.normal(size=rows)),
            "postcode": codes,
            "plan": random.choice(["gold", "NA", "3.0", ""], rows),
            "member": random.choice([True, False], rows),
            "at": moments.strftime("%m/%d/%Y %I:%M:%S %p"),
            "clock": moments.strftime("%H:%M"),
        }
    )
    targets = (random.random(rows) < (codes * 7919 % 100) / 100).astype(int)
    frame["city"] = [f"Größe {number}" for number in 50 * targets + random.integers(0, 100, rows)]
    columns = learn(frame, targets, missing=["-999", "NA"])
    kinds = {column["name"]: column for column in columns}
    assert {"postcode", "city"} <= {name for name, column in kinds.items() if "encodings" in column}
    assert kinds["score"]["missing"]
    assert kinds["at"]["kind"] == kinds["clock"]["kind"] == "date"

    typed = read_typed(frame, columns, "the rows")
    expected = encode_rows(frame, columns, "the rows")
    np.testing.assert_allclose(encode(columns, typed), expected, rtol=0, atol=1e-6)
    assert len(np.unique(expected[:, width(columns[0])])) > 0.9 * rows  # of the accounts

    made_up = make_up_rows(columns)
    for column, values in zip(columns, made_up, strict=True):
        if column["kind"] == "number":
            values[: len(EDGES)] = EDGES
    np.testing.assert_allclose(encode(columns, made_up), encode_typed(made_up, columns, "rows"), rtol=0, atol=1e-6)


def test_names_are_read_as_python_reads_them() -> None:
    frame = pd.DataFrame({"plan": ["3", "x", "true", ""] * 10, "flag": ["true", "false"] * 20})
    columns = learn(frame, np.arange(40) % 2)
    plans = ["3", "3.0", "x", "X", "true", "True", "TRUE", "", "3.00"]
    flags = ["true", "True", "FALSE", "False", "false", "no", "", "t", "0"]
    values = [np.array(part, dtype=object) for part in (plans, flags)]
    np.testing.assert_array_equal(encode(columns, values), encode_typed(values, columns, "rows"))


DATES = """2024-02-29 2023-02-29 1900-02-29 2000-02-29 0001-01-01 9999-12-31 0000-01-01 2024-13-01 2024-00-10 2024-04-31
2024-12-31T23:59:59 2024-12-31T23:59:59.123456 2024-12-31T23:59:59.5Z 2024-12-31T08:09:10+02:00 2024-12-31T08:09-0530
2024-12-31T08:09+02 2024-12 14:15 36:15:30 999:59:59 7:05 24:00 2024-01-01T24:00 2024-01-01T23:59:60 today""".split()


def test_dates_are_read_as_python_reads_them() -> None:
    texts = [*DATES, "", "2024-12-31 08:09:07"]
    graph, helper = OnnxGraph("dates/"), onnx.helper
    days = add_days(graph, "texts")
    ends = [
        helper.make_tensor_value_info(name, kind, ["N"])
        for name, kind in (("texts", onnx.TensorProto.STRING), (days, onnx.TensorProto.DOUBLE))
    ]
    network = helper.make_graph(graph.nodes, "dates", ends[:1], ends[1:], graph.constants)
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"texts": np.array(texts, dtype=object)})[0]
    np.testing.assert_array_equal(found, [as_days(text, False) for text in texts])
    assert np.isnan(found).sum() == 8


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of customers, with dates as Americans write them."""
    table = customers()
    days = np.random.default_rng(1).integers(0, 900, len(table))
    table["since"] = (pd.Timestamp("2022-01-01") + pd.to_timedelta(days, "D")).strftime("%m/%d/%Y")
    file = tmp_path_factory.mktemp("table") / "customers.csv"
    table.to_csv(file, index=False)
    return file


@pytest.fixture
def frame(trained: Train, path: Path) -> pd.DataFrame:
    """The rows of the table, on which a model was trained."""
    trained(*FIT[1:], "--data.path", path)
    return pd.read_csv(path)


def typed(table: pd.DataFrame) -> dict[str, list[Any]]:
    """What a client sends: one list for each input of the file."""
    since = pd.to_datetime(table["since"]).dt.strftime("%Y-%m-%d")
    texts = {"plan": table["plan"].fillna(""), "member": table["member"], "since": since}
    texts["abroad"] = table["abroad"].map(str)
    return {name: [*table[name]] for name in ("age", "spent", "visits")} | {name: [*texts[name]] for name in texts}


def test_the_file_of_a_table_predicts_raw_rows(kindling: Command, frame: pd.DataFrame) -> None:
    result = kindling("export")
    assert result.code == 0, result.err
    assert "compared on 40 test rows and 256 made-up rows" in " ".join(result.out.split())
    assert kindling("export", "--raw", "--out", "raw.onnx").code == 0
    assert Path("raw.onnx").read_bytes() == FILE.read_bytes()  # it takes raw rows anyway
    assert kindling("predict", "--ckpt_path", RUN).code == 0
    expected = pd.read_csv(RUN / "predictions.csv")
    tested = frame.loc[expected["row"]]
    session = onnxruntime.InferenceSession(FILE)
    columns = typed(tested)
    inputs = {
        each.name: np.array(columns[each.name], dtype=float if each.type == "tensor(double)" else object)
        for each in session.get_inputs()
    }
    assert inputs.keys() == columns.keys()
    for number in (1, 7, len(tested)):
        found = session.run(["probabilities"], {name: array[:number] for name, array in inputs.items()})[0]
        np.testing.assert_allclose(found, expected[["no", "yes"]][:number], rtol=0, atol=2e-6)
    served = load_onnx(FILE).predict(tested.drop(columns="churned"))
    np.testing.assert_allclose(served.probabilities, expected[["no", "yes"]], rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_run_without_its_test_rows_is_compared_on_made_up_ones_and_nothing_is_written_if_they_differ(
    kindling: Command, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    (RUN / "split.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("kindling.deploy.onnx_columns.MAX_NUMBER", 1.0)
        result = kindling("export")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the exported output probabilities differs from the checkpoint by" in result.err
    assert not FILE.parent.exists()
    result = kindling("export")
    assert result.code == 0, result.err
    assert "compared on 256 made-up rows" in " ".join(result.out.split())


def test_files_of_earlier_versions_take_features_and_are_served(
    kindling: Command, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ModelCard, "takes_rows", False)
        assert kindling("export", "--out", "earlier.onnx").code == 0
    assert [each.name for each in onnxruntime.InferenceSession("earlier.onnx").get_inputs()] == ["inputs"]
    expected = pd.read_csv(RUN / "predictions.csv")
    found = load_onnx(Path("earlier.onnx")).predict(frame.loc[expected["row"]].drop(columns="churned"))
    np.testing.assert_allclose(found.probabilities, expected[["no", "yes"]], rtol=0, atol=2e-6)


def test_modified_metadata_is_refused_in_one_line() -> None:
    columns = learn(pd.DataFrame({"plan": ["gold", "basic"] * 20}), np.arange(40) % 2)
    (model, features), changed = model_of(columns), Path("changed.onnx")
    card = ModelCard("MLPClassifier", ("no", "yes"), (width(columns[0]),), columns)
    facts = {**card.as_dict(), "features": features, "threshold": 0.4, "positive_class": "yes"}
    entries = {name: json.dumps(value) for name, value in facts.items()}

    def load_changed(**change: str) -> None:
        onnx.helper.set_model_props(model, entries | change)
        onnx.save_model(model, changed)
        load_onnx(changed)

    load_changed()
    invalid = {
        "features": ["{}", "[1]", "5", "not JSON"],
        "threshold": ['"high"', "2"],
        "positive_class": ['"maybe"', "null"],
        "classes": ['["no", "yes", "maybe"]'],
    }
    for name, values in invalid.items():
        for value in values:
            with pytest.raises(ValueError, match=r"^changed\.onnx was .* its metadata is missing or invalid$"):
                load_changed(**{name: value})
    with pytest.raises(ValueError, match="is damaged: it lacks 'gone'"):
        load_changed(features='"gone"')


PROGRAM = """
const ort = require(process.argv[1]);
const columns = JSON.parse(require("fs").readFileSync("columns.json"));
(async () => {
  const session = await ort.InferenceSession.create("runs/tables/version_0/export/model.onnx");
  const inputs = {};
  for (const [name, values] of Object.entries(columns)) {
    inputs[name] = ["age", "spent", "visits"].includes(name)
      ? new ort.Tensor("float64", values.map((value) => value ?? NaN), [values.length])
      : new ort.Tensor("string", values, [values.length]);
  }
  const { probabilities } = await session.run(inputs);
  console.log(JSON.stringify([...probabilities.data]));
})();
"""


@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_node_predicts_what_the_command_predicts(kindling: Command, frame: pd.DataFrame, package: str) -> None:
    node = shutil.which("node")
    folders = [folder for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if Path(folder, package).is_dir()]
    if not (node and folders):
        pytest.skip(f"needs Node and the package {package} in NODE_PATH")
    assert kindling("export").code == 0
    expected = pd.read_csv(RUN / "predictions.csv")
    columns = pd.DataFrame(typed(frame.loc[expected["row"]]))
    lists = {name: [None if pd.isna(value) else value for value in columns[name].tolist()] for name in columns}
    Path("columns.json").write_text(json.dumps(lists))
    result = subprocess.run([node, "-e", PROGRAM, package], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = np.array(json.loads(result.stdout)).reshape(-1, 2)
    np.testing.assert_allclose(found, expected[["no", "yes"]], rtol=0, atol=2e-6)
