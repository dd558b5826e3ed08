import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import _typehints

import kindling as package
from conftest import TINY, Command, Train
from kindling.cli.commands import COMMANDS

QUICK = ["fit", "--config", "configs/quickstart.yaml"]


@pytest.mark.alone
def test_help_lists_every_command_quickly_without_importing_torch() -> None:
    program = "import sys; from kindling.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.4
    for name, line in COMMANDS.items():
        assert any(shown.split() == [name, *line.split()] for shown in process.stdout.splitlines())


def test_python_m_kindling_runs_the_command() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "kindling", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout == f"kindling {package.__version__}\n"


def test_only_the_output_of_a_command_is_on_stdout(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--trainer.callbacks", "Watch", "--print_config")
    assert yaml.safe_load(result.out)["run_name"] == "tiny"
    assert result.err == "note: Watch has been renamed to LayerHealthMonitor\n"


def test_the_logging_setup_of_a_program_is_kept(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("kindling")
    assert kindling("runs").code == 0
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a notebook: pytest adds its own
    pd.DataFrame({"x": [0.5, 1, 2, 4] * 5, "y": ["a", "b", None, "b"] * 5}).to_csv("rows.csv", index=False)
    package.TableDataModule("rows.csv", "y").setup("fit")
    assert capfd.readouterr().err == "left out: 5 rows of rows.csv without y\n"


def test_fit_help_lists_what_can_be_chosen_on_two_screens(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "114")
    find = _typehints.get_all_subclass_paths

    def installed(*arguments: Any, **options: Any) -> list[str]:
        """Leave out the models and data modules that other tests have written or imported."""
        packages, demos = ("kindling.", "lightning.", "torch."), "lightning.pytorch.demos."
        found = find(*arguments, **options)
        return [path for path in found if path.startswith(packages) and not path.startswith(demos)]

    monkeypatch.setattr("kindling.cli.class_names.get_all_subclass_paths", installed)
    shown = kindling("fit", "--help").out
    assert len(shown.splitlines()) <= 95
    assert max(map(len, shown.splitlines())) <= 114
    assert "--trainer.benchmark" not in shown
    for title in ("options:", "model:", "data:", "best and last checkpoint:", "early stopping:", "trainer:"):
        assert title in shown.splitlines()
    words = " ".join(shown.split())
    bases = {"BaseTask", "BaseDataModule", "ClassificationTask", "ClassificationDataModule", "RegressionTask"}
    bases |= {"MultiLabelTask", "MLPModel", "CNNModel", "TransferModel", "EnsembleModel", "TabMModel"}
    others = {
        "MultiLabelPrediction",
        "Prediction",
        "Predictor",
        "RegressionPrediction",
        "find_lr",
        "load",
        "overfit_batch",
    }
    for name in {*package.__all__} - others:
        assert (name in words) == (name not in bases), name
    choices = re.findall(r"--(?:model|data) NAME [^\[]*\[([^\]]*)\]", words)
    assert len(choices) == 2
    for name in ", ".join(choices).split(", "):
        assert name in package.__all__, f"{name} is a base class of Kindling's own"
    assert "null turns early stopping off. [default: 5]" in words


def test_help_all_shows_all_options_wherever_it_is_typed(kindling: Command) -> None:
    for typed in ("--help all -c quickstart", "-c quickstart -h all --watch", "--help=all --watch"):
        result = kindling("fit", *typed.split())
        assert (result.code, result.err) == (0, "")
        assert "--trainer.benchmark" in result.out
    assert "--trainer.benchmark" not in kindling("fit", "--help").out  # nor is it remembered


ODD = r"Union|Literal|Optional|<class|subclass|type:|null\]|LightningModule|Base[TD]|\] \[(?!-)"  # types and bases
PAGES = ["fit --help", "validate --help", "test --help", "predict --help", "fit --averaging.help EMA"]
PAGES += ["fit --model.help TransferClassifier", "fit --data.help TableDataModule", "export --help", "serve --help"]
PAGES += ["schema --help", "runs --help", "runs show --help", "runs compare --help", "new --help", "--help"]


@pytest.mark.parametrize("page", PAGES)
def test_each_help_page_fits_the_terminal_and_has_one_style(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = kindling(*page.split())
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    assert not re.search(ODD, result.out)
    words = " ".join(result.out.split())
    assert ("Show this help page and exit." in words) == (".help" not in page and page != "--help")
    assert "Optimizer," not in words
    if page.split()[0] in ("validate", "test", "predict"):
        assert "\ncheckpoint:\n" in result.out
        assert "Checkpoint: best, last (of the newest run)" in words
        assert not re.search("resume|return_predictions|max_epochs|inference", words)


UNDOCUMENTED = """
from lightning.pytorch import LightningModule

class Leaf(LightningModule):
    def __init__(self, class_names: list[str], veins: int = 3, sign: str = ""):
        super().__init__()
"""


def test_options_without_a_docstring_are_shown_once(kindling: Command) -> None:
    Path("leaves.py").write_text(UNDOCUMENTED)
    lines = kindling("fit", "--plugin", "leaves.py", "--model.help", "Leaf").out.splitlines()[2:]
    options = {"class_names [A,...]": "[from the data]", "veins N": "[default: 3]", "sign SIGN": ""}
    assert [line.split() for line in lines] == [["Leaf:"], *(f"--model.{k} {v}".split() for k, v in options.items())]


@pytest.mark.parametrize("option", ["--model BaseTask", "--data BaseDataModule", "--model.optimizer Optimizer"])
def test_base_classes_cannot_be_chosen(kindling: Command, option: str) -> None:
    key, name = option.removeprefix("--").split()
    options = {"--model": "MLPClassifier", "--data": "DigitsDataModule"} | {f"--{key}": name}
    result = kindling("fit", *(word for pair in options.items() for word in pair))
    assert (result.code, result.err) == (2, f"kindling: error: {key}: {name} is a base class: choose a subclass\n")
    near = kindling("fit", *(word for pair in (options | {f"--{key}": f"{name}s"}).items() for word in pair)).err
    assert near.count("\n") == 1
    assert f"did you mean {name}?" not in near


def test_model_help_shows_inherited_options_with_defaults(kindling: Command) -> None:
    words = " ".join(kindling("fit", "--model.help", "CNNClassifier").out.split())
    assert "Output channels of each block; blocks halve" in words
    assert "as long as both exceed 3." in words
    assert "--model.num_classes N Number of classes. [from the data]" in words
    assert "--model.label_smoothing X" in words
    assert "[default: 0.0]" in words
    assert "[default: [32, 64]]" in words


SYNTHETIC = ("fit", "--config", "configs/synthetic_mlp.yaml")
DIGITS = ("fit", "--model", "CNNClassifier", "--data", "DigitsDataModule")

STOPPER = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss")

YAML = {
    "gone": "data: {class_path: kindling.data.GoneDataModule, init_args: {size: 3}}",
    "key": "model: {class_path: CNNClassifier, init_args: {chanels: [3]}}",
    "top": "trainer: {max_epoch: 3}",
    "syntax": "model: [",
    "checkpoint": "ckpt_path: last",
    "list": "- seed_everything: 1",
    "blank": "a b: 1",
    "dash": "-seed_everything: 1",
    "number": "model: 3",
    "twice": "model: {class_path: CNNClassifier}\ntrainer: {max_epochs: 1}\nmodel: {init_args: {channels: [4]}}",
    "nested": "model: {class_path: {class_path: Adam}}",
    "optimizer": "model: {class_path: CNNClassifier, init_args: {optimizer: {class_path: Adamm}}}",
    "empty": "",
    "null_key": "trainer: {null: 1}",
    "null_group": "seed_everything: 1\nearly_stopping:",
    "null_class": "trainer: {callbacks: [{class_path: null, init_args: {}}]}",
    "null_arguments": "model: {class_path: CNNClassifier, init_args: {optimizer: {class_path: Adam, init_args: null}}}",
    "no_class": "trainer: {logger: [{init_args: {save_dir: logs}}]}",
    "colon": "seed_everything: 1\nrun_name: a: b",
    "tag": "seed_everything: !!python/object:os.system x",
    "control": "seed_everything: 1\nrun_name: a\x16b",
    "argument": "model: {class_path: CNNClassifier, init_args: {optimizer: {class_path: Adam, init_args: {lrr: 0.1}}}}",
}

USAGE = {
    ("tset",): ["tset", "did you mean test?"],
    ("frobnicate",): ["frobnicate", "fit, validate, test, predict"],
    ("fit",): ["model must be given: add --model NAME, or a recipe such as --config quickstart"],
    ("fit", "--model", "CNNClassifier"): ["--data is required: CNNClassifier does not provide its own data"],
    ("",): ["there is no command ''", "fit, validate, test, predict"],
    (*QUICK, "stray"): ["unexpected argument 'stray'", "--NAME VALUE"],
    (*QUICK, " "): ["unexpected argument ' '"],
    (*QUICK, "--find_lr=0"): ["--find_lr takes no value, got '0'"],
    (*QUICK, "--model.help", "Adam"): ["model.help: there is no model Adam"],
    (*QUICK, "--model.help", "MLPClasifier"): ["did you mean MLPClassifier?"],
    (*QUICK, "--model.help", "MLPClassifier", "--data.noise", "1"): ["--model.help=", "no other options may follow"],
    (*QUICK, "--model", "torch.nn.Linear"): ["model: torch.nn.Linear is not a model"],
    (*QUICK, "--averaging", "kindling.training.Averaging"): ["averaging: kindling.training.Averaging is a base class"],
    (*QUICK, "--early_stopping", "3"): ["early_stopping: expected options such as --early_stopping.NAME VALUE, got"],
    (*QUICK, "--trainer.max_epochs"): ["--trainer.max_epochs needs a value"],
    (*QUICK, "--model.dropout"): ["--model.dropout needs a value"],
    (*QUICK, "--model.optimizer.lr", "--trainer.max_epochs", "1"): ["--model.optimizer.lr needs a value"],
    (*QUICK, "--averaging", "EMA", "--averaging.decay"): ["--averaging.decay needs a value"],
    (*QUICK, "--data"): ["--data needs a value"],
    (*QUICK, "--data.noise", "1"): ["MNISTDataModule has no option data.noise"],
    (*QUICK, "--averaging", "SWA", "--averaging.decay", "1"): ["SWA has no option averaging.decay"],
    (*QUICK, "--averaging", "EMA", "--averaging.decay", "null"): ["averaging.decay: null is not float"],
    (*QUICK, "--averaging", "SWA", "--averaging.start_epoch", "null"): ["averaging.start_epoch: null is not int"],
    (*QUICK, "--model.label_smoothing", "null"): ["model.label_smoothing: null is not float"],
    (*QUICK, "--data.batch_size", "null"): ["data.batch_size: null is not int or auto"],
    (*QUICK, *STOPPER, "--trainer.callbacks.patience", "null"): ["trainer.callbacks.patience: null is not int"],
    (*QUICK, "--config", "control.yaml"): [
        "control.yaml is not valid YAML, line 2: remove the control character U+0016"
    ],
    ("fit", "--config", "[]"): ["config: [] is not a YAML file with options"],
    ("fit", "--config", "empty.yaml"): ["empty.yaml: must contain options such as seed_everything: 1, got null"],
    ("fit", "--config", "null_key.yaml"): ["null_key.yaml: there is no option null in trainer"],
    (*QUICK, "--config", "null_group.yaml"): [
        "early_stopping: expected options",
        "--early_stopping.patience null turns it off",
    ],
    ("fit", "--config", "null_class.yaml"): ["null_class.yaml: trainer.callbacks[0]: class_path must be the name of"],
    ("fit", "--config", "null_arguments.yaml"): [
        "model.init_args.optimizer: init_args must contain options",
        "got null",
    ],
    ("fit", "--config", "no_class.yaml"): ["no_class.yaml: trainer.logger[0]: class_path is missing"],
    ("fit", "--config", "colon.yaml"): ["colon.yaml is not valid YAML, line 2, column 12: unexpected colon"],
    ("fit", "--config", "tag.yaml"): ["tag.yaml is not valid YAML, line 1, column 18: remove the tag"],
    (*QUICK, "--model.optimizer", "{class_path: 1}"): [
        "model.optimizer: class_path must be the name of a class, got 1"
    ],
    (*QUICK, "--model.optimizer", "CNNClassifier"): ["model.optimizer: there is no optimizer CNNClassifier"],
    (*QUICK, "--model.optimizer", "os.system"): ["model.optimizer: os.system is not an optimizer"],
    (*QUICK, "--model.optimizer.lr", "2024-01-31"): ["model.optimizer.lr: 2024-01-31 is not float"],
    (*QUICK, "--model.optimizer.betas", "[0.9]"): ["model.optimizer.betas: expected a list of 2 values, got [0.9]"],
    (*QUICK, "--trainer.logger", "1"): ["trainer.logger: there is no class 1"],
    ("fit", "--model", "LightningModule"): ["model: LightningModule is a base class: choose a subclass"],
    ("fit", "--data.num_samples", "9"): ["data: its class is missing: give --data NAME"],
    ("fit", "--config", "latin.yaml"): ["latin.yaml is not text in UTF-8"],
    ("fit", "--config", "list.yaml"): ["list.yaml: must contain options", "got [{'seed_everything': 1}]"],
    ("fit", "--config", "blank.yaml"): ["blank.yaml: there is no option 'a b'"],
    ("fit", "--config", "dash.yaml"): ["dash.yaml: there is no option '-seed_everything'"],
    ("fit", "--config", "number.yaml"): ["model: expected the name of a class, or class_path and init_args"],
    ("fit", "--config", "nested.yaml"): [
        "nested.yaml: model: class_path must be the name of a class, got {'class_path"
    ],
    ("fit", "--config", "twice.yaml"): ["twice.yaml is not valid YAML: model is given twice, in lines 1 and 3"],
    ("fit", "--model.hidden", "[8]", "--config", "quickstart"): ["model.hidden: [8] is not int"],
    (*QUICK, "--averaging.decay", "0.9"): ["choose a subclass with --averaging NAME"],
    (*QUICK, "--trainer.callbacks.patience", "3"): ["trainer.callbacks: its class is missing"],
    (*QUICK, "--trainer.logger.save_dir", "x"): [
        "Logger is a base class: choose a subclass with --trainer.logger NAME"
    ],
    (*QUICK, "--optimizer", "SGD"): ["there is no option optimizer: did you mean model.optimizer?"],
    (*QUICK, "--trainer.max_epoch", "1"): ["there is no option trainer.max_epoch: did you mean trainer.max_epochs?"],
    (*QUICK, "--seed=1"): ["there is no option seed: did you mean seed_everything?"],
    (*QUICK, "--watc"): ["there is no option watc: did you mean watch?"],
    ("serve", "--por", "1"): ["there is no option por: did you mean port?"],
    ("runs", "--sor", "time"): ["there is no option sor: did you mean sort?"],
    ("runs", "--sort"): ["--sort needs a value"],
    ("runs", "--srot", "x"): ["there is no option srot", "did you mean sort?"],
    (*QUICK, "--modl.dropout", "0"): ["modl.dropout", "did you mean model?"],
    (*QUICK, "--model", "CNNClasifier"): ["CNNClasifier", "did you mean CNNClassifier?"],
    (*QUICK, "--model", "SyntheticDataModule"): ["model: there is no model SyntheticDataModule"],
    (*QUICK, "--model.chanels", "[3]"): ["model.chanels", "did you mean model.channels?"],
    (*QUICK, "--data.bach_size", "3"): ["data.bach_size", "did you mean data.batch_size?"],
    (*QUICK, "--model.optimizer", "Sgd"): ["did you mean SGD?"],
    (*QUICK, "--model.optimizer", "SGDD"): ["model.optimizer", "SGDD", "did you mean SGD?"],
    (*QUICK, "--model.optimizer.lrr", "3"): ["model.optimizer.lrr", "did you mean model.optimizer.lr?"],
    (*QUICK, "--model.lr_scheduler", "StepLR"): [
        "model.lr_scheduler.step_size must be given: add --model.lr_scheduler.step_size VALUE"
    ],
    (*QUICK, "--model.dropout", "much"): ["model.dropout: much is not float"],
    (*QUICK, "--model.channels", "32"): ["model.channels: 32 is not a list such as [1, 2]"],
    (*QUICK, "--data.source", "FasionMNIST"): ["data.source: FasionMNIST is not one of MNIST, FashionMNIST"],
    (*QUICK, "--trainer.max_epochs", "few"): ["trainer.max_epochs: few is not int"],
    (*QUICK, "--trainer.precision", "bf17"): ["trainer.precision: bf17 is not", "bf16-mixed"],
    (*QUICK, "--early_stopping.mode", "mini"): ["early_stopping.mode: mini is not one of auto, min, max"],
    ("fit", "--config", "nowhere.yaml"): ["there is no file nowhere.yaml"],
    ("fit", "--config", "configs/quikstart.yaml"): ["quikstart.yaml: did you mean configs/quickstart.yaml?"],
    ("fit", "--config", "configs/bf16.yaml"): ["did you mean configs/with/bf16.yaml?"],
    ("fit", "--config", "elsewhere/quickstart.yaml"): ["no file elsewhere/quickstart.yaml: did you mean configs/quick"],
    ("fit", "--config", "quikstart"): ["there is no recipe quikstart: did you mean quickstart?"],
    ("fit", "--config=bf16"): ["there is no recipe bf16: did you mean with/bf16?"],
    ("fit", "--config", "with/tensorbord"): ["there is no recipe with/tensorbord: kindling fit --help lists all"],
    ("fit", "--config", "with/wandbb"): ["did you mean with/wandb?"],
    ("fit", "--config", "wit/wandb"): ["did you mean with/wandb?"],
    ("fit", "-c", "gpu"): ["there is no recipe gpu: did you mean with/gpu?"],
    ("fit", "--config", "configs"): ["there is no recipe configs: kindling fit --help lists all"],
    ("fit", "--config", ""): ["there is no recipe ''"],
    (*QUICK, "--config", "key.yaml"): ["model.chanels", "did you mean model.channels?"],
    (*QUICK, "--config", "gone.yaml"): ["data: there is no class kindling.data.GoneDataModule"],
    (*QUICK, "--config", "top.yaml"): ["trainer.max_epoch", "did you mean trainer.max_epochs?"],
    (*QUICK, "--config", "syntax.yaml"): ["syntax.yaml is not valid YAML, line", "check the indentation"],
    (*QUICK, "--config", "checkpoint.yaml"): ["ckpt_path can't be set in a config file", "--ckpt_path PATH"],
    (*QUICK, "--config", "optimizer.yaml"): ["Adamm", "did you mean Adam?"],
    (*QUICK, "--config", "argument.yaml"): ["model.optimizer.lrr", "did you mean model.optimizer.lr?"],
    (*SYNTHETIC, "--data", "helpers.SumDataModule"): [
        "MLPClassifier needs num_classes, which SumDataModule does not provide",
        "--model.num_classes VALUE",
    ],
    ("fit", "--config", "images_cnn", "--data.dir", "photos"): [
        "ImageFolderDataModule has no option data.dir: did you mean data.data_dir?"
    ],
    ("fit", "--config", "images_cnn", "--data.data_dir", "photos", "--model.backbone", "resnet18"): [
        "CNNClassifier has no option model.backbone; for transfer learning, use --config images_transfer"
    ],
    ("test", "--ckpt", "best"): ["there is no option ckpt: did you mean ckpt_path?"],
    ("predict", "--checkpoint=best"): ["there is no option checkpoint: did you mean ckpt_path?"],
    ("test",): ["--ckpt_path", "best, last, a run folder or a file"],
    ("predict",): ["--ckpt_path", "best, last, a run folder or a file"],
    ("validate", "--config", "configs/quickstart.yaml"): ["--ckpt_path"],
}

VALUES = {
    (*SYNTHETIC, "--data.num_classes", "0"): ["`num_classes` must be at least 1, got 0"],
    (*SYNTHETIC, "--data.num_features", "-2"): ["`num_features` must be at least 1, got -2"],
    (*QUICK, "--data.batch_size", "-3"): ["`batch_size` must be at least 1, got -3"],
    (*QUICK, "--trainer.max_epochs", "0"): ["--trainer.max_epochs 0", "at least 1"],
    (*QUICK, "--trainer.max_time", "00:00:00:00"): ["--trainer.max_time 0 trains nothing"],
    (*QUICK, "--trainer.max_time", "{minutes: 0}"): ["--trainer.max_time 0 trains nothing"],
    (*QUICK, "--trainer.logger", "CometLogger"): ["comet-ml is not installed: pip install 'comet-ml>="],
    (*QUICK, "--trainer.max_time", "1h"): ["trainer.max_time must be DD:HH:MM:SS", "got 1h"],
    (*QUICK, "--trainer.strategy", "dpp"): ["there is no --trainer.strategy dpp: did you mean ddp?"],
    (*QUICK, "--trainer.profiler", "fast"): ["there is no --trainer.profiler fast: choose from simple, advanced"],
    (*QUICK, "--trainer.max_steps", "0"): ["--trainer.max_steps 0", "at least 1"],
    (*QUICK, "--trainer.limit_train_batches", "0"): ["--trainer.limit_train_batches 0", "at least 1"],
    (*QUICK, "--model", "helpers.Recurrent"): ["Recurrent does not accept inputs of shape (1, 28, 28): ", "2D", "3D"],
    (*QUICK, "--model", "helpers.TwoOutputs"): [
        "TwoOutputs must return logits (N, num_classes)",
        "(1, 10), got (1, 2)",
    ],
    (*SYNTHETIC, "--model", "helpers.SumRegressor"): ["SumRegressor predicts numbers, but the targets are classes"],
    (*QUICK, "--data.val_split", "50000"): ["`val_split` must hold out", "4000 training samples"],
    (*QUICK, "--model.dropout", "1.5"): ["dropout", "1.5"],
    (*QUICK, "--model.hidden", "-3"): ["hidden", "-3"],
    (*QUICK, "--model.channels", "[8, 0]"): ["channels", "(8, 0)"],
    (*SYNTHETIC, "--model.hidden", "[8, 0]"): ["hidden layers", "at least 1", "(8, 0)"],
    (*DIGITS, "--data.margin", "-1"): ["`margin` must be at least 0, got -1"],
    (*DIGITS, "--data.shots", "500"): ["`shots` must be between 1 and", "got 500"],
    (*QUICK, "--model.label_smoothing", "2"): ["label_smoothing", "2"],
    (*QUICK, "--model.optimizer.lr", "-1"): ["learning rate", "-1"],
    (*QUICK, "--early_stopping.patience", "-1"): ["early_stopping.patience", "-1"],
    (*QUICK, "--trainer.max_epochs", "-5"): ["max_epochs", "-5"],
    (*QUICK, "--trainer.accelerator", "tpu"): ["PyTorch finds no tpu", "--trainer.accelerator cpu"],
    (*QUICK, "--data", "SyntheticDataModule"): ["CNNClassifier needs images", "(20,)"],
    ("fit", "--config", "configs/mnist_cnn.yaml", "--data.data_dir", "nowhere"): [
        *("MNIST is incomplete in nowhere/MNIST/raw", "--data.data_dir", "--config quickstart"),
    ],
    ("fit", "--config", "configs/mnist_cnn.yaml", "--data.data_dir", "cut"): ["cut/MNIST/raw", "damaged"],
    ("fit", "--model", "CNNClassifier", "--data", "ImageFolderDataModule", "--data.data_dir", "photo/leaf"): [
        "folder photo/leaf not found: did you mean photos/leaf?"
    ],
    ("fit", "--config", "table_mlp", "--data.path", "photos/sale.csv", "--data.target", "y"): [
        "photos/sale.csv not found: did you mean photos/sales.csv?"
    ],
    ("test", "--ckpt_path", "photos/salse.ckpt"): ["no checkpoint photos/salse.ckpt: did you mean photos/sales.ckpt?"],
    ("test", "--ckpt_path", "photos/sales"): ["there is no checkpoint photos/sales: give a file, a run folder"],
    ("fit", "--config", "table_mlp", "--data.path", "photos/leaf.csv", "--data.target", "y"): [
        "photos/leaf.csv not found: use a CSV"
    ],
    ("test", "--ckpt_path", "nowhere.ckpt"): ["nowhere.ckpt", "a run folder, best or last"],
    ("test", "--ckpt_path", "best"): ["best.ckpt", "kindling fit"],
    ("test", "--ckpt_path", "empty.ckpt"): ["empty.ckpt is damaged, truncated or not a checkpoint"],
    ("test", "--ckpt_path", "text.ckpt"): ["text.ckpt is damaged, truncated or not a checkpoint"],
    ("test", "--ckpt_path", "code.ckpt"): ["code.ckpt", "could run code: it was not loaded"],
    ("fit", "--ckpt_path", "foreign.ckpt"): ["foreign.ckpt is not a Kindling checkpoint"],
    (*QUICK, "--data.scale", "1.5"): ["`scale` must be between 0 and 0.99, got 1.5"],
    ("test", "--ckpt_path", "plain.ckpt"): ["plain.ckpt is not a Kindling checkpoint"],
}


class Code:
    """Write a file when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("hacked",)


@pytest.fixture
def faulty_files(folder: Path, mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create files with all kinds of faults, and block the network."""
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    for name, text in YAML.items():
        Path(f"{name}.yaml").write_text(text + "\n")
    Path("latin.yaml").write_bytes("run_name: café".encode("latin-1"))
    Path("empty.ckpt").touch()
    Path("photos/leaf").mkdir(parents=True)
    Path("photos/sales.csv").write_text("x,y")
    Path("photos/sales.ckpt").touch()
    Path("text.ckpt").write_text("hello")
    torch.save({"state_dict": {}, "surprise": Code()}, "code.ckpt")
    torch.save({"weights": torch.zeros(3)}, "plain.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"lr": 0.1}}, "foreign.ckpt")
    raw = Path("cut/MNIST/raw")
    raw.mkdir(parents=True)
    for path in (mnist / "MNIST/raw").iterdir():
        (raw / path.name).write_bytes(path.read_bytes()[:1000])


@pytest.mark.quick_cases(60)
@pytest.mark.usefixtures("faulty_files")
@pytest.mark.parametrize(("arguments", "words"), (USAGE | VALUES).items(), ids=lambda value: " ".join(value)[-60:])
def test_mistakes_end_in_one_line_that_names_them(
    kindling: Command, arguments: tuple[str, ...], words: list[str]
) -> None:
    before = set(Path().rglob("*"))
    result = kindling(*arguments)
    assert result.code == (2 if arguments in USAGE else 1)
    assert result.err.startswith("kindling: error: ")
    assert result.err.count("\n") == 1
    assert len(result.err) < 400
    for word in words:
        assert word in result.err
    assert set(Path().rglob("*")) == before, "something half-written was left behind"


def test_a_checkpoint_cut_short_is_refused(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    checkpoint = Path("runs/tiny/version_0/checkpoints/best.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    result = kindling("test", "--ckpt_path", "best")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{checkpoint} is damaged, truncated" in result.err


def test_a_missing_package_is_named() -> None:
    command = [sys.executable, "-S", "-m", "kindling", "fit"]  # without site-packages, as in a new clone
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.fullmatch(r"kindling: error: \w+ is not installed: install the dependencies with .*\n", done.stderr)


@pytest.mark.slow
def test_training_does_not_resume_from_weights_alone(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    whole = torch.load("runs/tiny/version_0/checkpoints/best.ckpt", weights_only=True)
    torch.save({name: value for name, value in whole.items() if name != "optimizer_states"}, "weights.ckpt")
    result = kindling("fit", "--ckpt_path", "weights.ckpt", "--trainer.max_epochs", "9")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "weights.ckpt contains only weights: training can't be resumed from it" in result.err


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    "option",
    [
        "--early_stopping.monitor val/los",
        "--checkpoint.monitor val/los",
        "--checkpoint.monitor los",
        "--early_stopping.monitor val/los --trainer.num_sanity_val_steps 1",
    ],
)
def test_a_monitored_metric_that_is_not_logged_is_named_with_those_that_are(kindling: Command, option: str) -> None:
    result = kindling("fit", *TINY, *option.split())
    assert (result.code, result.err.count("\n")) == (1, 1)
    name, monitor = option.split()[:2]
    assert f"{name} {monitor}: no such metric is logged" in result.err
    if monitor == "val/los":
        assert (
            "did you mean val/loss? (logged so far: val/accuracy, val/balanced_accuracy, val/f1, val/loss)"
            in result.err
        )
    assert Path("runs").exists()  # an epoch has been trained


def test_a_monitored_metric_need_not_be_logged_in_the_sanity_check(kindling: Command) -> None:
    Path("late.py").write_text(LATE)
    model = ["--plugin", "late.py", "--model", "Late", *TINY[2:], "--trainer.num_sanity_val_steps", "1"]
    monitors = ["--checkpoint.monitor", "val/late", "--early_stopping.monitor", "val/late"]
    result = kindling("fit", *model, *monitors)
    assert (result.code, result.err) == (0, "")


LATE = """
from kindling import MLPClassifier

class Late(MLPClassifier):
    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.log("val/late", 1.0)
"""


def test_a_training_metric_can_choose_the_best_checkpoint(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--checkpoint.monitor", "train/loss", "--test_after_fit", "false").code == 0
    stored = torch.load("runs/tiny/version_0/checkpoints/best.ckpt", weights_only=True)
    assert any("train/loss" in key for key in stored["callbacks"])


@pytest.mark.slow
def test_a_class_stays_after_the_recipe_in_every_spelling_of_config(kindling: Command) -> None:
    Path("other.yaml").write_text("model: {class_path: CNNClassifier}")
    for recipe in (["--config", "other.yaml"], ["-c", "other.yaml"], ["-c=other.yaml"], ["-cother.yaml"]):
        typed = ["-c", "quickstart", "--model.dropout", "0.1", *recipe, "--model", "MLPClassifier", "--print_config"]
        result = kindling("fit", *typed)
        assert result.code == 0, result.err
        assert yaml.safe_load(result.out)["model"]["class_path"] == "kindling.MLPClassifier", recipe


def test_options_may_precede_their_class(kindling: Command) -> None:
    options = (
        "--model.optimizer.momentum 0.5 --model.optimizer=SGD --model.hidden [8] --model MLPClassifier "
        "--data.num_samples=300 --data SyntheticDataModule --averaging.decay 0.5 --averaging EMA "
        "--trainer.callbacks.monitor val/f1 --trainer.callbacks+=EarlyStopping --trainer.logger.save_dir x "
        "--trainer.logger CSVLogger --model.lr_scheduler.step_size 3 --model.lr_scheduler StepLR"
    )
    result = kindling("fit", *options.split(), "--print_config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert config["model"]["class_path"] == "kindling.MLPClassifier"
    arguments = config["model"]["init_args"]
    assert (arguments["hidden"], arguments["optimizer"]["class_path"]) == ([8], "torch.optim.SGD")
    assert arguments["optimizer"]["init_args"]["momentum"] == 0.5
    assert arguments["lr_scheduler"]["init_args"]["step_size"] == 3
    assert config["data"]["init_args"]["num_samples"] == 300
    assert config["averaging"]["init_args"]["decay"] == 0.5
    assert config["trainer"]["callbacks"][0]["init_args"]["monitor"] == "val/f1"
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "x"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (["--model.hidden", "[9]"], "contains a different model, MLPClassifier"),
        (["--model", "CNNClassifier", "--data", "MNISTDataModule", "--data.source", "sample"], "20"),
        (["--data.num_features", "30"], "(30,)"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    kindling: Command, trained: Train, other: list[str], words: str
) -> None:
    trained(*TINY)
    result = kindling("test", "--ckpt_path", "best", *other)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert words in result.err


@pytest.mark.skipif(sys.platform == "win32", reason="the message is the system's own")
def test_a_run_folder_that_cannot_be_written_is_named(kindling: Command) -> None:
    Path("runs").write_text("a file, not a folder")
    result = kindling("fit", *TINY)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "runs/tiny" in result.err


def test_debug_mode_shows_the_traceback(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINDLING_DEBUG", "1")
    with pytest.raises(ValueError, match="label_smoothing"):
        kindling(*QUICK, "--model.label_smoothing", "2")


def test_an_error_in_user_code_keeps_its_traceback(kindling: Command) -> None:
    with pytest.raises(RuntimeError, match="simulated crash"):
        kindling("fit", *TINY, "--trainer.callbacks", '[{"class_path": "helpers.CrashAt", "init_args": {"step": 1}}]')


@pytest.mark.parametrize(
    ("code", "expected", "line"), [("no license", 1, "kindling: error: no license\n"), (3, 3, ""), (None, 0, "")]
)
def test_user_code_may_exit_with_a_code_or_a_message(kindling: Command, code: object, expected: int, line: str) -> None:
    callback = {"class_path": "helpers.ExitAt", "init_args": {"step": 0, "code": code}}
    result = kindling("fit", *TINY, "--trainer.callbacks", json.dumps([callback]))
    assert (result.code, result.err) == (expected, line)


USERS_CLASSES = """import torch
from kindling import ClassificationTask
class Forgets(ClassificationTask):
    def __init__(self, **kwargs):
        self.network = torch.nn.Linear(20, 3)
class Closed(ClassificationTask):
    def __init__(self, width=3):
        super().__init__()
class Misspelt(ClassificationTask):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.network = torch.nn.Linear(20, self.num_clases)
class Raising(ClassificationTask):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.network = torch.nn.Linear(20, self.num_classes)
    def training_step(self, batch, batch_idx):
        raise ValueError("not today")
class Torn(Raising):
    def forward(self, inputs):
        return self.network(inputs.mT)
"""


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "Forgets",
            "Forgets can't be created: call super().__init__(**kwargs) first in its __init__ (mine.py, line",
        ),
        (
            "Closed",
            "super().__init__ lacks 'num_classes': take **kwargs in its __init__ and pass them on (mine",
        ),
        (
            "Misspelt",
            "Misspelt can't be created: AttributeError: 'Misspelt' object has no attribute 'num_clases'",
        ),
        ("Raising", "not today (mine.py, line 18; KINDLING_DEBUG=1 shows the traceback)"),
        ("Torn", "(mine.py, line 21)"),
    ],
)
def test_a_mistake_in_a_class_names_it_or_its_line(kindling: Command, name: str, wanted: str) -> None:
    Path("mine.py").write_text(USERS_CLASSES)
    options = ["--data", "SyntheticDataModule", "--data.num_samples", "60", "--data.num_classes", "3"]
    result = kindling("fit", "--plugin", "mine.py", "--model", name, *options)
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    assert wanted in result.err
    assert not Path("runs").exists()
