import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from conftest import TINY, Command, Train
from kindling import load
from kindling.deploy.export_wrapper import Compute, ExportWrapper
from kindling.deploy.formats import FORMATS
from kindling.deploy.torch_files import write_torch_export

pytestmark = pytest.mark.usefixtures("quick_proof")

SAMPLE = "--data MNISTDataModule --data.source sample --trainer.limit_train_batches 3 --trainer.max_epochs 1".split()
MODELS = {
    "mlp": TINY[: TINY.index("--run_name")],
    "cnn": ["--model", "CNNClassifier", "--model.channels", "[4,8]", *SAMPLE],
    "colour": [
        *("--model", "TransferClassifier", "--model.backbone", "squeezenet1_1", "--model.weights", "none"),
        *("--model.image_size", "40", *SAMPLE),
    ],
}


Found = tuple[Any, Any, dict[str, Any]]  # probabilities, logits, what the file says of itself


def train(trained: Train, name: str) -> Path:
    trained(*MODELS[name], "--run_name", name)
    return Path("runs", name, "version_0")


def train_ensemble(kindling: Command) -> Path:
    for seed in (0, 1):
        assert kindling("fit", *MODELS["cnn"], "--run_name", "member", "--seed_everything", seed).code == 0
    members = ["--model.checkpoints", "[runs/member/version_0, runs/member/version_1]"]
    assert kindling("fit", "--model", "EnsembleClassifier", *members, *SAMPLE, "--run_name", "ensemble").code == 0
    return Path("runs/ensemble/version_0")


def inputs(run: Path, number: int) -> Tensor:
    torch.manual_seed(number)
    return torch.rand(number, *load(run).card.input_shape)


def with_onnx(path: Path, samples: Tensor) -> Found:
    session = onnxruntime.InferenceSession(path)
    facts = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    return *session.run(["probabilities", "logits"], {"inputs": samples.numpy()}), facts


def with_torch_export(path: Path, samples: Tensor) -> Found:
    extra = {"card.json": ""}
    probabilities, logits = torch.export.load(path, extra_files=extra).module()(samples)
    return probabilities.detach(), logits.detach(), json.loads(extra["card.json"])


def with_torchscript(path: Path, samples: Tensor) -> Found:
    extra = {"card.json": ""}
    probabilities, logits = torch.jit.load(path, _extra_files=extra)(samples)  # type: ignore[no-untyped-call]
    return probabilities, logits, json.loads(extra["card.json"])


def with_torchserve(path: Path, samples: Tensor) -> Found:
    with zipfile.ZipFile(path) as archive:
        archive.extract("model.pt", path.parent)
    return with_torchscript(path.parent / "model.pt", samples)


READERS = {
    "onnx": with_onnx,
    "torch_export": with_torch_export,
    "torchscript": with_torchscript,
    "torchserve": with_torchserve,
}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("model", "format"),
    [
        ("cnn", "onnx"),
        ("cnn", "torchscript"),
        *(
            pytest.param(*variant, marks=pytest.mark.slow)
            for variant in [
                ("cnn", "torch_export"),
                ("cnn", "torchserve"),
                ("mlp", "onnx"),
                ("colour", "onnx"),
                ("ensemble", "onnx"),
            ]
        ),
    ],
)
def test_the_file_computes_what_the_checkpoint_does(kindling: Command, trained: Train, model: str, format: str) -> None:
    run = train_ensemble(kindling) if model == "ensemble" else train(trained, model)
    result = kindling("export", "--ckpt_path", run, "--format", format)
    assert result.code == 0, result.err
    file = run / "export" / f"model{FORMATS[format].suffix}"
    for number in (1, 5, 300):
        samples = inputs(run, number)
        probabilities, logits, card = READERS[format](file, samples)
        np.testing.assert_allclose(probabilities, load(run).predict(samples).probabilities, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(torch.as_tensor(logits).softmax(1), probabilities, rtol=1e-4, atol=1e-6)
    facts = load(run).card
    assert (card["classes"], card["input_shape"]) == (list(facts.classes), list(facts.input_shape))
    assert card["metrics"] == json.loads((run / "test_metrics.json").read_text())
    proof = file.with_name(f"{file.name}.txt").read_text()
    for words in ("difference, batch 1 ", "batch 7", "batch 64", "ms, batch 1", "samples/s, batch 64"):
        assert words in proof
        assert words in result.out
    assert {path.name for path in file.parent.iterdir()} - {"model.pt"} == {file.name, f"{file.name}.txt"} - {
        "model.pt"
    }


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(trained, "mlp")

    def spoil(model: ExportWrapper, *rest: Any) -> None:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: tensor * 1.01 for name, tensor in before.items()})
        write_torch_export(model, *rest)
        model.load_state_dict(before)

    monkeypatch.setitem(FORMATS, "torch_export", FORMATS["torch_export"]._replace(write=spoil))
    result = kindling("export", "--ckpt_path", run, "--format", "torch_export")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "differs from the checkpoint by" in result.err
    assert not (run / "export").exists()


def test_a_file_without_outputs_fails_the_comparison(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(trained, "mlp")

    def read(path: Path) -> Compute:
        return lambda samples: (torch.full((len(samples), 3), torch.nan),) * 2

    monkeypatch.setitem(FORMATS, "torch_export", FORMATS["torch_export"]._replace(read=read))
    assert kindling("export", "--ckpt_path", run, "--format", "torch_export").code == 1
    assert not (run / "export").exists()


def test_mistakes_are_said_in_one_line(kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    train(trained, "mlp")
    for options, code, message in (
        (["--ckpt_path", "nowhere"], 1, "there is no checkpoint nowhere"),
        (["--format", "onxx"], 2, "format: onxx is not one of onnx, torch_export, torchscript, torchserve"),
        (["--out", "model.pt"], 1, "--out must end in .onnx for --format onnx, got model.pt"),
        (["--formt", "onnx"], 2, "there is no option formt: did you mean format?"),
    ):
        result = kindling("export", *options)
        assert (result.code, result.err.count("\n")) == (code, 1)
        assert message in result.err
    monkeypatch.setattr("kindling.utils.optional.find_spec", lambda name: None)
    result = kindling("export")
    assert "pip install 'kindling-ml[export]'" in result.err


def test_a_file_of_another_program_is_not_served(kindling: Command) -> None:
    inputs, outputs = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("inputs", "outputs")
    )
    relu = onnx.helper.make_node("Relu", ["inputs"], ["outputs"])
    graph = onnx.helper.make_graph([relu], "relu", [inputs], [outputs])
    operators = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=operators), "relu.onnx")
    result = kindling("serve", "--ckpt_path", "relu.onnx", "--port", "0")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "relu.onnx was not written by kindling export, or was modified: its metadata is missing" in result.err


def test_the_output_path_can_be_chosen(kindling: Command, trained: Train) -> None:
    train(trained, "mlp")
    assert kindling("export", "--format", "torch_export", "--out", "given/name.pt2").code == 0
    assert sorted(path.name for path in Path("given").iterdir()) == ["name.pt2", "name.pt2.txt"]


def test_the_help_says_what_is_legacy_and_why(kindling: Command) -> None:
    words = " ".join(kindling("export", "--help").out.split())
    assert "Legacy: torchscript, which torch has deprecated" in words
    assert "a server that had its last release in 2024" in words


def test_what_takes_long_is_said(kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(*TINY)
    monkeypatch.setattr("kindling.utils.console.PROGRESS_DELAY", 0.0)
    result = kindling("export", "--format", "torch_export")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("loading ")
    assert lines[1] == "converting MLPClassifier to torch_export ..."
    assert lines.index("comparing model.pt2 with the checkpoint ...") < lines.index(lines[-1])


@pytest.mark.slow
def test_a_model_in_onnx_reads_no_other_file(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    assert kindling("export", "--ckpt_path", "last", "--out", "model.onnx").code == 0
    model = onnx.load("model.onnx")
    Path("secret").write_bytes(bytes(10_000))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    Path("evil.onnx").write_bytes(model.SerializeToString())
    result = kindling("serve", "--ckpt_path", "evil.onnx", "--port", "0")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "evil.onnx keeps weights in another file, secret" in result.err


@pytest.mark.parametrize("name", ["their.ops:Foo", "com.microsoft:EPContext"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_model_in_onnx_needs_no_other_library(kindling: Command, name: str, nested: bool) -> None:
    domain, operator = name.split(":")
    value = onnx.helper.make_tensor_value_info
    inputs, outputs = value("inputs", onnx.TensorProto.FLOAT, [None, 2]), value("y", onnx.TensorProto.FLOAT, [None, 2])
    node = onnx.helper.make_node(operator, ["inputs"], ["y"], domain=domain, ep_cache_context="../secret")
    if nested:
        branch = onnx.helper.make_graph([node], "branch", [], [outputs])
        node = onnx.helper.make_node("If", ["inputs"], ["y"], then_branch=branch, else_branch=branch)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [inputs], [outputs]))
    Path("evil.onnx").write_bytes(model.SerializeToString())
    result = kindling("serve", "--ckpt_path", "evil.onnx", "--port", "0")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"evil.onnx needs the custom operator {name}" in result.err


def test_export_fails_at_once_where_nothing_can_be_written(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    refuse = OSError(errno.EPERM, os.strerror(errno.EPERM))
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", lambda dir: (_ for _ in ()).throw(refuse))
        patch.setattr("kindling.deploy.export.load_model", lambda *_: pytest.fail("has begun"))
        result = kindling("export", "--ckpt_path", "last")
    target = "runs/tiny/version_0/export/model.onnx"
    assert (result.code, result.err) == (
        1,
        f"kindling: error: can't write {target} (Operation not permitted): set --out to a file in another folder\n",
    )
