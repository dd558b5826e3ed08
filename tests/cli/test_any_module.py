"""LightningModules, data modules and datasets written without Kindling, and tasks with unusual inputs or outputs."""

import csv
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import modules
import pytest
import torch
from modules import DictLoaders, Shapes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Command, different
from kindling import SyntheticDataModule, load
from kindling.deploy.formats import FORMATS
from kindling.deploy.onnx_file import onnx_session
from kindling.deploy.responses import to_response
from kindling.deploy.torch_files import read_torch_export
from kindling.runs.metric_names import standard_name

BORING = "lightning.pytorch.demos.boring_classes."
PLAIN = ["--model", "modules.Segmentation", "--data", "modules.ShapesDataModule", "--run_name", "plain"]
RUN = Path("runs/plain/version_0")
FEW = ["--trainer.max_epochs", "3"]
NO_LOSS = "val/loss is not logged, only nothing: best.ckpt will be the last checkpoint and early stopping is off"


def callback(name: str, step: int) -> list[str]:
    return ["--trainer.callbacks", json.dumps([{"class_path": f"helpers.{name}", "init_args": {"step": step}}])]


def fit_briefly(kindling: Command, model: str, data: str) -> None:
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--test_after_fit", "false"]
    assert kindling("fit", "--model", model, "--data", data, *few).code == 0


def test_lightnings_own_demo_modules_train_test_predict_and_resume(kindling: Command) -> None:
    options = ["--model", f"{BORING}BoringModel", "--data", f"{BORING}BoringDataModule", "--trainer.max_epochs", "1"]
    fitted = kindling("fit", *options)
    run = Path("runs/BoringModel-BoringDataModule/version_0")
    assert (fitted.code, fitted.err.count("\n"), fitted.err.startswith(NO_LOSS)) == (0, 1, True)
    for command in ("test", "validate", "predict"):
        result = kindling(command, "--ckpt_path", run)
        assert (result.code, result.err, "logged none" in result.out) == (0, "", command != "predict")
    assert len(torch.cat(torch.load(run / "predictions.pt", weights_only=True))) == 64
    assert kindling("fit", "--ckpt_path", run, "--trainer.max_epochs", "2").code == 0
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
    assert "BoringModel-BoringDataModule" in kindling("runs").out


def test_an_optional_argument_called_like_one_of_the_data_keeps_its_default(kindling: Command) -> None:
    fit_briefly(kindling, "modules.Clusters", "SyntheticDataModule")
    run = Path("runs/Clusters-SyntheticDataModule/version_0")
    assert kindling("validate", "--ckpt_path", run).code == 0
    assert kindling("fit", "--ckpt_path", run, "--trainer.max_epochs", "2").code == 0
    assert len(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["network.0.bias"]) == 7


def test_a_model_with_loaders_of_its_own_needs_no_data_module(kindling: Command) -> None:
    fitted = kindling("fit", "--model", f"{BORING}BoringModel", "--trainer.max_epochs", "1")
    assert (fitted.code, fitted.err.count("\n"), fitted.err.startswith(NO_LOSS)) == (0, 1, True)
    assert kindling("test", "--ckpt_path", "best").code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_a_plain_module_gets_all_files_of_a_run(kindling: Command) -> None:
    fitted = kindling("fit", *PLAIN, *FEW)
    assert (fitted.code, fitted.err) == (0, "")
    assert "epoch 3/3  train/loss 0." in fitted.out
    assert "val/iou" in fitted.out
    record = json.loads((RUN / "run.json").read_text())
    assert record["best"]["val/loss"] == pytest.approx(
        min(float(row["val_loss"]) for row in csv.DictReader((RUN / "metrics.csv").open()) if row["val_loss"])
    )
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert best["hyper_parameters"]["num_classes"] == 2  # required, so linked to the data
    assert best["hyper_parameters"]["_class_path"] == "modules.Segmentation"
    assert (RUN / "training_history.png").stat().st_size > 20_000
    events = EventAccumulator(str(RUN / "val"))
    events.Reload()
    assert {"metrics/loss", "metrics/iou"} <= set(events.Tags()["scalars"])
    assert kindling("predict", "--ckpt_path", RUN).code == 0
    masks = torch.cat(torch.load(RUN / "predictions.pt", weights_only=True))
    assert masks.shape == (len(Shapes(2)), 8, 8)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("stop", ["CrashAt", "SignalAt"])
def test_a_plain_loader_resumes_exactly_from_the_start_of_an_epoch(kindling: Command, stop: str) -> None:
    kindling("fit", *PLAIN, *FEW)
    if stop == "CrashAt":
        with pytest.raises(RuntimeError, match="simulated crash"):
            kindling("fit", *PLAIN, *FEW, *callback(stop, 8))
    else:
        stopped = kindling("fit", *PLAIN, *FEW, *callback(stop, 8))
        assert (stopped.code, "epoch 2 will start over: DataLoader can't" in stopped.err) == (1, True)
    run = Path("runs/plain/version_1")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    resumed = kindling("fit", "--ckpt_path", run, "--trainer.callbacks", "null")
    assert (resumed.code, resumed.err) == (0, "")
    assert different(RUN / "checkpoints/last.ckpt", run / "checkpoints/last.ckpt") == []


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_in_our_data_module_resumes_exactly_within_an_epoch(kindling: Command, workers: int) -> None:
    options = ["--model", "modules.LanguageModel", "--data", "modules.TextDataModule", "--run_name", "text", *FEW]
    options += ["--data.num_workers", str(workers)]
    assert kindling("fit", *options).code == 0
    assert kindling("fit", *options, *callback("SignalAt", 4)).code == 1
    run = Path("runs/text/version_1")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert kindling("fit", "--ckpt_path", run, "--trainer.callbacks", "null").code == 0
    assert different(Path("runs/text/version_0/checkpoints/last.ckpt"), run / "checkpoints/last.ckpt") == []


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("data", [["PointsDataModule"], ["OwnPointsDataModule", "--data.batch_size", "8"]])
def test_several_optimizers_stepped_by_hand(kindling: Command, data: list[str]) -> None:
    options = ["--model", "modules.GAN", "--run_name", "gan", *FEW, "--data", f"modules.{data[0]}", *data[1:]]
    fitted = kindling("fit", *options)
    assert (fitted.code, fitted.err) == (0, "")
    assert "critic_loss" in fitted.out
    assert "predict" not in fitted.out
    header = Path("runs/gan/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"critic_loss", "generator_loss", "lr/0", "lr/1", "gradient_norm"} <= set(header)
    assert kindling("fit", *options, *callback("SignalAt", 13)).code == 1
    resumed = kindling("fit", "--ckpt_path", "runs/gan/version_1", "--trainer.callbacks", "null")
    assert (resumed.code, resumed.err) == (0, "")
    checkpoints = [Path(f"runs/gan/version_{number}/checkpoints/last.ckpt") for number in (0, 1)]
    assert different(*checkpoints) == []


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("modules.OwnNet", "VectorsDataModule"),
        ("modules.OwnNet", "OwnVectors"),
        ("modules.WithLazyLayers", "VectorsDataModule"),
        ("MLPClassifier", "OwnVectors"),
        ("MLPRegressor", "OwnSums"),
    ],
)
def test_arguments_missing_in_the_data_module_are_inferred(kindling: Command, model: str, data: str) -> None:
    options = ["--model", model, "--data", f"modules.{data}", "--trainer.max_epochs", "1"]
    assert kindling("fit", *options, "--run_name", "told", "--model.input_shape", "[4]").code == 0
    fitted = kindling("fit", *options, "--run_name", "read")
    assert (fitted.code, fitted.err) == (0, "")
    told, read = (Path(f"runs/{name}/version_0/checkpoints/last.ckpt") for name in ("told", "read"))
    assert different(told, read) == []  # reading draws no random numbers
    stored = torch.load(read, weights_only=True)["hyper_parameters"]
    assert (list(stored["input_shape"]), stored.get("num_classes", 2)) == ([4], 2)
    assert kindling("validate", "--ckpt_path", "runs/read/version_0").code == 0


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("model", "data", "wanted"),
    [
        ("modules.OwnNet", "UnlabeledVectors", "needs num_classes, which UnlabeledVectors does not provide: set them"),
        ("modules.OwnNet", "TrainerDependentLoader", "--model.num_classes VALUE --model.input_shape VALUE"),
        (
            "CNNClassifier",
            "ShapesWithoutPredict",
            "needs input_shape, the shape of one sample, which its",
        ),
        ("modules.WithLazyLayers", "ShapesWithoutPredict", "WithLazyLayers needs input_shape, the shape of one sample"),
        ("MLPRegressor", "ShapesWithoutPredict", "MLPRegressor needs input_shape, the shape of one sample"),
        (
            "modules.OwnNet --model.weighted_loss true",
            "VectorsDataModule",
            "needs class counts, which Vectors",
        ),
        ("MLPClassifier", "DictLoaders", "needs num_classes and input_shape, which DictLoaders does not provide: set"),
    ],
)
def test_an_argument_that_cannot_be_inferred_is_named(kindling: Command, model: str, data: str, wanted: str) -> None:
    result = kindling("fit", "--model", *model.split(), "--data", f"modules.{data}")
    assert (result.code in (1, 2), result.err.count("\n")) == (True, 1), result.err
    assert wanted in result.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_task_with_several_labels(kindling: Command) -> None:
    options = ["--model", "modules.MultiLabel", "--data", "modules.MultiLabelDataModule", "--run_name", "labels"]
    fitted = kindling("fit", *options, "--trainer.max_epochs", "20", "--model.optimizer.lr", "0.1")
    assert (fitted.code, fitted.err) == (0, "")
    metrics = json.loads(Path("runs/labels/version_0/test_metrics.json").read_text())
    assert metrics["test/f1"] > 0.9
    assert kindling("predict", "--ckpt_path", "best").code == 0
    predictions = torch.cat(torch.load("runs/labels/version_0/predictions.pt", weights_only=True))
    assert predictions.shape == (100, 3)
    assert 0 <= predictions.min() <= predictions.max() <= 1
    assert kindling("export", "--ckpt_path", "best", "--format", "torch_export").code == 0
    (exported,) = read_torch_export(Path("runs/labels/version_0/export/model.pt2"))(prediction_inputs("MultiLabel"))
    assert torch.allclose(exported, predictions, atol=1e-5)  # probabilities, too
    assert kindling("fit", *options, "--overfit", "--model.optimizer.lr", "0.5").code == 0


def prediction_inputs(model: str) -> Any:
    """Return the inputs of the test split of a data module in `modules`."""
    data = getattr(modules, f"{model}DataModule")()
    data.setup("predict")
    return next(iter(data.predict_dataloader()))[0]


@pytest.mark.usefixtures("quick_proof", "pictures")
def test_a_task_with_a_forward_in_place_of_a_network(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))  # the default takes half a minute
    options = ["--model", "modules.OwnForward", "--data", "SyntheticDataModule", "--data.num_samples", "60", *FEW]
    fitted = kindling("fit", *options, "--run_name", "own", "--model.compile", "true")
    assert (fitted.code, fitted.err) == (0, "")
    assert kindling("predict", "--ckpt_path", "best").code == 0
    inputs = SyntheticDataModule(num_samples=60).load("test")[0]
    wanted = torch.from_numpy(load("best").predict(inputs)[1])
    for name in FORMATS:
        exported = kindling("export", "--ckpt_path", "best", "--format", name)
        assert (exported.code, exported.err) == (0, "")
        found = FORMATS[name].read(Path(f"runs/own/version_0/export/model{FORMATS[name].suffix}"))(inputs)
        assert torch.allclose(found[0], wanted, atol=1e-4)
    events = EventAccumulator("runs/own/version_0/train")
    events.Reload()
    assert events.Tags()["graph"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TwoInputs", "OwnForwardOfTwo", "NamedInputs"])
@pytest.mark.usefixtures("quick_proof")
def test_a_classifier_with_two_inputs(kindling: Command, model: str) -> None:
    data = "NamedInputsDataModule" if model == "NamedInputs" else "TwoInputsDataModule"
    options = ["--model", f"modules.{model}", "--data", f"modules.{data}", "--run_name", "two", *FEW]
    fitted = kindling("fit", *options)
    assert fitted.code == 0, fitted.err
    assert Path("runs/two/version_0/report.html").exists()
    assert kindling("predict", "--ckpt_path", "best").code == 0
    lines = Path("runs/two/version_0/predictions.csv").read_text().splitlines()
    assert len(lines) == 61
    predicted = torch.tensor([[float(value) for value in line.split(",")[-2:]] for line in lines[1:]])
    inputs = prediction_inputs(data.removesuffix("DataModule"))
    for name in ("onnx", "torch_export", "torchscript"):
        exported = kindling("export", "--ckpt_path", "best", "--format", name)
        assert (exported.code, exported.err) == (0, "")
        compute = FORMATS[name].read(Path(f"runs/two/version_0/export/model{FORMATS[name].suffix}"))
        found = compute(*(inputs.values() if isinstance(inputs, dict) else inputs))
        assert torch.allclose(found[0], predicted, atol=1e-4)
    session = onnx_session(Path("runs/two/version_0/export/model.onnx"))
    assert [each.name for each in session.get_inputs()] == (
        ["row", "image"] if model == "NamedInputs" else ["image", "row"]
    )
    for command, wanted in {
        "export --ckpt_path best --format torchserve": f"{model} has several inputs: use --format onnx",
        "serve --ckpt_path best": f"{model} has several inputs",
        "serve --ckpt_path runs/two/version_0/export/model.onnx": "takes several inputs",
    }.items():
        refused = kindling(*command.split())
        assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert wanted in refused.err


def test_a_model_with_two_inputs_takes_them_in_any_form() -> None:
    image, row = torch.randn(5, 1, 4, 4), torch.randn(5, 3)
    model = modules.UnknownInputs(num_classes=2)
    for outputs in (model((image, row)), model([image, row]), model({"row": row, "image": image}), model(image, row)):
        assert torch.equal(outputs, model(image=image, row=row))


def test_inputs_of_unknown_shape_can_be_given_after_training(kindling: Command) -> None:
    options = ["--model", "modules.UnknownInputs", "--data", "modules.TwoInputsDataModule", "--run_name", "two", *FEW]
    assert kindling("fit", *options, "--test_after_fit", "false").code == 0
    refused = kindling("export", "--ckpt_path", "best")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "UnknownInputs does not say what its inputs look like: set self.example_input_array" in refused.err
    assert len(refused.err) < 320
    assert "if they are one tensor of floats; else export it" in kindling("serve", "--ckpt_path", "best").err


@pytest.mark.slow
@pytest.mark.usefixtures("quick_proof")
def test_a_missing_input_shape_is_inferred_from_training_samples(kindling: Command) -> None:
    options = ["--model", "modules.Unshaped", "--data", "modules.UnshapedVectors", "--run_name", "unshaped", *FEW]
    fitted = kindling("fit", *options, "--test_after_fit", "false")
    assert (fitted.code, fitted.err) == (0, "")
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "4").code == 0
    probabilities = load("last").predict(torch.zeros(1, 4).numpy())[1]
    assert kindling("export", "--ckpt_path", "last", "--format", "torch_export").code == 0
    (exported, _) = read_torch_export(Path("runs/unshaped/version_0/export/model.pt2"))(torch.zeros(1, 4))
    assert exported.numpy() == pytest.approx(probabilities)


def test_an_input_shape_may_come_from_the_example() -> None:
    model = modules.Unshaped(num_classes=2)
    for example, shape in ((None, []), (torch.zeros(1, 4), [4]), (torch.zeros(1, 4, dtype=torch.long), [])):
        model.example_input_array = example
        assert list(model.sample_shape) == shape  # tokens have none


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("model", "data", "inputs", "outputs"),
    [
        ("TwoOutputs", "MultiLabelDataModule", ["inputs"], ["mean", "spread"]),
        (
            "NestedOutputs",
            "TwoInputsDataModule",
            ["first", "others_0"],
            ["mean", "bounds.low", "bounds.high", "rest_0", "rest_1"],
        ),
    ],
)
@pytest.mark.usefixtures("quick_proof")
def test_several_inputs_and_outputs_are_exported_under_their_names(
    kindling: Command, model: str, data: str, inputs: list[str], outputs: list[str]
) -> None:
    options = ["--model", f"modules.{model}", "--data", f"modules.{data}", "--run_name", "out", *FEW]
    assert kindling("fit", *options, "--test_after_fit", "false").code == 0
    exported = kindling("export", "--ckpt_path", "best")
    assert exported.code == 0, exported.err
    session = onnx_session(Path("runs/out/version_0/export/model.onnx"))
    assert [each.name for each in session.get_inputs()] == inputs
    assert [each.name for each in session.get_outputs()] == outputs
    assert "logits" not in exported.out
    assert all(f"{name} " in exported.out for name in outputs)


@pytest.mark.slow
def test_one_class_for_each_position_of_a_sequence(kindling: Command) -> None:
    options = ["--model", "modules.Tagger", "--data", "modules.TaggerDataModule", "--run_name", "tags"]
    fitted = kindling("fit", *options, "--trainer.max_epochs", "20", "--model.optimizer.lr", "0.1")
    assert (fitted.code, fitted.err) == (0, "")
    assert json.loads(Path("runs/tags/version_0/test_metrics.json").read_text())["test/accuracy"] > 0.9
    assert kindling("predict", "--ckpt_path", "best").code == 0
    written = torch.cat(torch.load("runs/tags/version_0/predictions.pt", weights_only=True))
    assert written.shape == (80, 2, 10)
    labels, probabilities = load("best").predict(prediction_inputs("Tagger"))
    assert torch.allclose(torch.from_numpy(probabilities), written, atol=1e-6)
    assert labels == [[("down", "up")[place] for place in row] for row in written.argmax(1).tolist()]
    answered = to_response(written, ("down", "up"), top=1)
    assert [[each["class"] for each in row] for row in answered] == labels
    assert answered[0][3]["probability"] == pytest.approx(float(written[0, :, 3].max()))
    maps = to_response(written.view(80, 2, 2, 5), ("down", "up"), top=1)  # as of an image
    assert [[each["class"] for row in one for each in row] for one in maps] == labels


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--model", "modules.Segmentation", "--data", f"{BORING}BoringDataModule"], "--model.num_classes VALUE"),
        (["--model", "modules.Segmentation", "--data", "modules.NetDataModule"], "ignore=['network']"),
        (["--model", f"{BORING}BoringModel", "--data", f"{BORING}BoringDataModule", "--overfit"], "got BoringModel"),
        (
            ["--model", "modules.PackedForward", "--data", "modules.TwoInputsDataModule"],
            "PackedForward.forward does not take a sample: too many positional arguments; define forward(self, input",
        ),
        (
            ["--model", "modules.Networkless", "--data", "modules.OwnSums"],
            "Networkless has no network: set self.network",
        ),
        (["--model", "MLPRegressor", "--data", "SyntheticDataModule"], "predicts numbers, but the targets"),
        (["--model", "modules.OneLabel", "--data", "modules.MultiLabelDataModule"], "derive from MultiLabelTask"),
        (
            ["--model", "modules.OneLabel", "--data", "modules.MultiLabelWithIntegers"],
            "derive from MultiLabelTask",
        ),
        (
            ["--model", "modules.OneLabel", "--data", "modules.MultiLabelDataModule", "--overfit"],
            "derive from MultiLabelTask",
        ),
        (["--model", "MLPRegressor", "--data", "modules.ColumnTargets"], "the targets have shape (64, 1)"),
        (["--model", "modules.MultiLabel", "--data", "modules.StreamDataModule"], "which has no length: return two"),
        (
            ["--model", "modules.TwoInputs", "--data", "modules.TriplesDataModule"],
            "(inputs, targets), but the data module returns 3",
        ),
        (
            ["--model", "modules.TwoInputs", "--data", "modules.DictionariesDataModule"],
            "but the data module returns a dict: make",
        ),
    ],
)
def test_incompatible_models_and_data_end_in_one_line(kindling: Command, options: list[str], wanted: str) -> None:
    result = kindling("fit", *options)
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1, result.err
    assert wanted in result.err
    assert "epoch" not in result.out
    assert not Path("runs").exists()


def test_all_metrics_are_shown_with_the_same_digits_everywhere(kindling: Command) -> None:
    options = ["--model", "modules.Unsplit", "--data", "SyntheticDataModule", "--data.num_samples", "100"]
    options += ["--trainer.callbacks", "LearningRateMonitor", "--trainer.max_epochs", "1", "--run_name", "unsplit"]
    fitted = kindling("fit", *options)
    assert (fitted.code, fitted.err) == (0, "")
    assert re.search(r"^epoch 1/1  loss \d\.\d{4}  acc 0\.2500  val/loss 0\.5102$", fitted.out, re.MULTILINE)
    tested = kindling("test", "--ckpt_path", "best").out
    shown = kindling("runs", "show", "unsplit").out
    for printed in (fitted.out, tested):
        assert re.search(r"test_loss │\s+0\.5102 ", printed)
        assert re.search(r"test_tiny │\s+1\.234e-05 ", printed)
    for line in (["val/loss", "0.5102"], ["test/loss", "0.5102"], ["test/tiny", "1.234e-05"]):
        assert line in [line.split() for line in shown.splitlines()]
    (row,) = (line for line in kindling("runs").out.splitlines() if "version_0" in line)
    assert "0.5102" in row.split()


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("model", "data", "missing"),
    [
        ("GAN", "PointsDataModule", "predict_step in GAN and predict_dataloader in PointsDataModule,"),
        ("Segmentation", "ShapesWithoutPredict", "predict_dataloader in ShapesWithoutPredict,"),
        ("ReadsImages", "ShapesDataModule", "predict_step in ReadsImages,"),
    ],
)
def test_predict_names_the_method_that_is_missing_and_its_class(
    kindling: Command, model: str, data: str, missing: str
) -> None:
    fit_briefly(kindling, f"modules.{model}", f"modules.{data}")
    result = kindling("predict", "--ckpt_path", "last")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"predict needs {missing} which is missing" in result.err


def test_a_forward_that_takes_no_batch_suggests_a_predict_step(kindling: Command) -> None:
    fit_briefly(kindling, "modules.LanguageModel", "modules.TextDataModule")
    result = kindling("predict", "--ckpt_path", "last")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "LanguageModel has no predict_step, and its forward does not take a whole batch" in result.err


@pytest.mark.slow
def test_required_model_arguments_may_be_typed(kindling: Command) -> None:
    options = ["--model", "modules.Segmentation", "--model.num_classes", "3", "--data", "modules.ShapesDataModule"]
    assert kindling("fit", *options, "--run_name", "typed", *FEW).code == 0
    assert "num_classes: 3" in Path("runs/typed/version_0/config.yaml").read_text()
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert kindling("fit", "--ckpt_path", "runs/typed/version_0", "--trainer.max_epochs", "4").code == 0


def test_a_plain_module_stores_only_its_own_arguments(kindling: Command) -> None:
    data = ["--data", "SyntheticDataModule", "--data.num_samples", "100"]  # it provides shape, classes, mean and std
    assert kindling("fit", "--model", "modules.Rows", *data, "--trainer.max_epochs", "1").code == 0
    run = Path("runs/Rows-SyntheticDataModule/version_0")
    stored = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["hyper_parameters"]
    assert {name for name in stored if not name.startswith("_")} == {"width"}
    assert kindling("validate", "--ckpt_path", run).code == 0


def test_the_commands_for_classes_refuse_a_plain_module_in_one_line(kindling: Command) -> None:
    kindling("fit", *PLAIN, *FEW)
    wanted = "Segmentation is not one of Kindling's tasks: derive it from kindling.BaseTask to export it"
    for command in (["export", "--ckpt_path", RUN], ["serve", "--ckpt_path", RUN]):
        result = kindling(*command)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert wanted in result.err
        assert "call Segmentation.load_from_checkpoint" in result.err
    with pytest.raises(ValueError, match=wanted):
        load(RUN)


def test_names_of_metrics() -> None:
    names = {"val_loss": "val/loss", "valid/acc": "val/acc", "train_loss_epoch": "train/loss", "loss": "loss"}
    names |= {"value": "value", "trainer_x": "trainer_x", "test_f1": "test/f1"}
    assert {name: standard_name(name) for name in names} == names


@pytest.mark.slow
def test_arguments_that_a_module_does_not_store_are_restored(kindling: Command) -> None:
    net = ["--model.net", "torch.nn.Linear", "--model.net.in_features", "2", "--model.net.out_features", "1"]
    options = [
        "--model",
        "modules.UnstoredModule",
        *net,
        "--data",
        "modules.ValidatedPoints",
        "--run_name",
        "keeps",
        *FEW,
    ]
    fitted = kindling("fit", *options)
    line = "val/loss is not logged, only loss/val: best.ckpt will be the last checkpoint"
    assert (fitted.code, fitted.err.count("\n"), fitted.err.count(line)) == (0, 1, 1)
    for command in (["validate"], ["fit", "--trainer.max_epochs", "4"]):
        result = kindling(*command, "--ckpt_path", "runs/keeps/version_0")
        assert (result.code, result.err.count(line)) == (0, command.count("fit"))


def test_named_loaders_are_created_only_when_needed(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DictLoaders, "calls", 0)
    options = ["--model", "modules.ReadsDicts", "--data", "modules.DictLoaders", "--run_name", "names", *FEW]
    fitted = kindling("fit", *options, "--trainer.limit_val_batches", "0.5")
    assert (fitted.code, fitted.err) == (0, "")
    assert DictLoaders.calls == 1


def test_a_warning_says_that_persistent_workers_do_not_resume_exactly(kindling: Command) -> None:
    options = ["--model", "modules.Segmentation", "--data", "modules.PersistentShapes", "--run_name", "workers"]
    fitted = kindling("fit", *options, "--trainer.max_epochs", "1")
    assert (fitted.code, "will not resume exactly" in fitted.err) == (0, True)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("model", "data", "more"),
    [
        ("modules.OwnNames", "modules.MultiLabelDataModule", []),
        ("modules.MultiLabel", "modules.ListDataModule", []),
        ("MLPRegressor", "modules.FlatTargets", ["--data.eval_batch_size", "1", "--trainer.limit_val_batches", "1"]),
    ],
)
def test_unusual_modules_of_users_work(kindling: Command, model: str, data: str, more: list[str]) -> None:
    fitted = kindling("fit", "--model", model, "--data", data, "--trainer.max_epochs", "1", *more)
    assert (fitted.code, fitted.err) == (0, "")


@pytest.mark.slow
def test_a_task_without_kwargs_trains_resumes_and_is_loaded(kindling: Command) -> None:
    options = ["--model", "modules.Fixed", "--data", "SyntheticDataModule", "--data.num_samples", "60"]
    options += ["--data.num_classes", "2", "--run_name", "fixed"]
    assert (result := kindling("fit", *options, "--trainer.max_epochs", "1")).code == 0, result.err
    assert (result := kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "2")).code == 0, result.err
    assert (result := kindling("predict", "--ckpt_path", "last")).code == 0, result.err
    assert (result := kindling("fit", *options, "--find_lr")).code in (0, 1), result.err
    assert "unexpected" not in result.err


def test_labels_that_are_not_numbers_are_not_counted(kindling: Command, folder: Path) -> None:
    (folder / "named.py").write_text(
        "import modules, torch\n"
        "from lightning.pytorch import LightningDataModule\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "class Named(Dataset):\n"
        "    labels = ['cat', 'dog'] * 20\n"
        "    def __len__(self): return 40\n"
        "    def __getitem__(self, i): return torch.rand(3), i % 2\n"
        "class NamedData(LightningDataModule):\n"
        "    def train_dataloader(self): return DataLoader(Named(), batch_size=8)\n"
        "    def val_dataloader(self): return DataLoader(Named(), batch_size=8)\n"
    )
    result = kindling("fit", "--plugin", "named.py", "--model", "MLPClassifier", "--data", "NamedData")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "MLPClassifier needs num_classes" in result.err
    assert "--model.num_classes VALUE" in result.err
