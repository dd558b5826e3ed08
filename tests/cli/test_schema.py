"""The JSON Schema of recipes, validated by jsonschema and compared with the parser of `fit`."""

import inspect
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from jsonargparse import capture_parser
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import kindling as package
from conftest import CONFIGS, TINY, Command
from kindling.cli.class_names import BASES, class_arguments
from kindling.cli.lightning_cli import KindlingCLI
from kindling.cli.schema import recipe_schema

RECIPES = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("with/*.yaml")])


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made = recipe_schema()
    jsonschema.Draft7Validator.check_schema(made)
    return made


def errors(schema: dict[str, Any], text: str) -> list[str]:
    return [error.json_path for error in jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(text))]


def test_the_recipes_are_found() -> None:
    assert len(RECIPES) > 10


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_and_overlays_are_valid_and_name_the_schema(schema: dict[str, Any], recipe: Path) -> None:
    assert not errors(schema, recipe.read_text())
    first, second, *_ = recipe.read_text().splitlines()
    mark = "# yaml-language-server: $schema="
    assert first.startswith(mark)
    assert second.startswith("# ")  # the description
    assert (recipe.parent / first.removeprefix(mark)).resolve() == (CONFIGS.parent / ".kindling/schema.json").resolve()


VALID = [
    "model: CNNClassifier",
    "model: model.yaml",
    "model: kindling.models.cnn.CNNClassifier",
    "model: {class_path: kindling.models.CNNClassifier, init_args: {channels: [3]}}",
    "model: {class_path: elsewhere.Net, init_args: {width: 3}}",
    "model: {init_args: {hidden: [3]}}",
    "model: {class_path: CNNClassifier, init_args: {optimizer: SGD, lr_scheduler: null}}",
    "model: {class_path: MLPClassifier, init_args: {lr_scheduler: {class_path: StepLR, init_args: {step_size: 3}}}}",
    "data: {class_path: MNISTDataModule, init_args: {source: sample, val_split: 0.2}}",
    "data: kindling.data.MNISTDataModule",
    "averaging: EMA",
    "trainer: {callbacks: [LearningRateMonitor, {class_path: EarlyStopping, init_args: {monitor: val/loss}}]}",
    "trainer: {callbacks: {class_path: LearningRateMonitor}, logger: false, profiler: null, devices: [0, 1]}",
    "trainer: {logger: [{class_path: CSVLogger, init_args: {save_dir: logs}}], strategy: ddp, accelerator: gpu}",
    "trainer: {strategy: {class_path: DDPStrategy, init_args: {find_unused_parameters: true}}, precision: bf16-mixed}",
    "{seed_everything: true, trainer: {max_time: '00:01:00:00', limit_train_batches: 0.5}}",
]
OPTIMIZER = "$.model.init_args.optimizer"
INVALID = {
    "model: CNNClasifier": "$.model",
    "model: {class_path: CNNClasifier}": "$.model.class_path",
    "model: kindling.CNNClasifier": "$.model",
    "model: kindling.model.CNNClassifier": "$.model",
    "model: DigitsDataModule": "$.model",
    "model: {class_pth: CNNClassifier}": "$.model",
    "model: {class_path: CNNClassifier, init_arg: {channels: [3]}}": "$.model",
    "model: {class_path: CNNClassifier, init_args: {chanels: [3]}}": "$.model.init_args",
    "model: {class_path: CNNClassifier, init_args: {channels: 3}}": "$.model.init_args.channels",
    "model: {class_path: CNNClassifier, init_args: {channels: [3, few]}}": "$.model.init_args.channels[1]",
    "model: {class_path: MLPClassifier, init_args: {dropout: much}}": "$.model.init_args.dropout",
    "model: {class_path: MLPClassifier, init_args: {optimizer: {class_path: Adamm}}}": f"{OPTIMIZER}.class_path",
    "model: {class_path: MLPClassifier, init_args: {optimizer: torch.optim.SDG}}": OPTIMIZER,
    "model: {class_path: MLPClassifier, init_args: {optimizer: {class_path: Adam, init_args: {lrr: 1}}}}": (
        f"{OPTIMIZER}.init_args"
    ),
    "model: {class_path: MLPClassifier, init_args: {optimizer: {class_path: Adam, init_args: {lr: x}}}}": (
        f"{OPTIMIZER}.init_args.lr"
    ),
    "model: {class_path: MLPClassifier, init_args: {optimizer: {class_path: Adam, init_args: {params: 1}}}}": (
        f"{OPTIMIZER}.init_args"
    ),
    "model: {init_args: {}, class_path: MLPClasifier}": "$.model.class_path",
    "model: {class_path: CNNClassifier, init_args: {lr_scheduler: {class_path: StepLR, init_args: {y: 1}}}}": (
        "$.model.init_args.lr_scheduler.init_args"
    ),
    "data: {class_path: MNISTDataModule, init_args: {source: FasionMNIST}}": "$.data.init_args.source",
    "data: {class_path: MNISTDataModul}": "$.data.class_path",
    "data: {class_path: BaseDataModule}": "$.data.class_path",
    "model: kindling.BaseTask": "$.model",
    "model: {class_path: CNNClassifier, init_args: {optimizer: Optimizer}}": OPTIMIZER,
    "averaging: {class_path: EMA, init_args: {decai: 0.9}}": "$.averaging.init_args",
    "modl: {}": "$",
    "plugin: my_models.py": "$",
    "ckpt_path: last": "$.ckpt_path",
    "seed_everything: many": "$.seed_everything",
    "trainer: {max_epoch: 3}": "$.trainer",
    "trainer: {max_epochs: few}": "$.trainer.max_epochs",
    "trainer: {strategy: dpp}": "$.trainer.strategy",
    "trainer: {strategy: {class_path: DDPStrategy, init_args: {find_unused: true}}}": "$.trainer.strategy.init_args",
    "trainer: {accelerator: cuda0}": "$.trainer.accelerator",
    "trainer: {precision: bf17}": "$.trainer.precision",
    "trainer: {devices: [0, one]}": "$.trainer.devices[1]",
    "trainer: {callbacks: [EarlyStoping]}": "$.trainer.callbacks[0]",
    "trainer: {callbacks: [lightning.pytorch.callbacks.EarlyStoping]}": "$.trainer.callbacks[0]",
    "trainer: {callbacks: [ModelSummary, {class_path: EarlyStopping, init_args: {patiense: 3}}]}": (
        "$.trainer.callbacks[1].init_args"
    ),
    "trainer: {callbacks: {class_path: EarlyStopping, init_args: {monitor: val/loss, patience: soon}}}": (
        "$.trainer.callbacks.init_args.patience"
    ),
    "trainer: {logger: {class_path: CSVLogger, init_args: {save_dr: logs}}}": "$.trainer.logger.init_args",
    "trainer: {logger: [{class_path: CSVLoger}]}": "$.trainer.logger[0].class_path",
    "early_stopping: {mode: mini}": "$.early_stopping.mode",
    "checkpoint: {every_n_minutes: soon}": "$.checkpoint.every_n_minutes",
}


@pytest.mark.parametrize("text", VALID)
def test_the_schema_accepts_what_the_parser_accepts(schema: dict[str, Any], text: str) -> None:
    assert not errors(schema, text)


@pytest.mark.parametrize("text", INVALID)
def test_a_typo_of_a_class_a_key_or_a_type_is_reported_where_it_is(schema: dict[str, Any], text: str) -> None:
    assert errors(schema, text) == [INVALID[text]]


def test_the_keys_are_those_of_the_parser(schema: dict[str, Any]) -> None:
    parser = capture_parser(lambda: KindlingCLI("fit", []))
    taken = parser._subcommands_action._name_parser_map["fit"].get_defaults().as_dict()  # type: ignore[union-attr]
    assert set(schema["properties"]) == set(taken) - {"config"}
    for group in ("trainer", "checkpoint", "early_stopping"):
        assert set(schema["properties"][group]["properties"]) == set(taken[group].keys())
        assert schema["properties"][group]["additionalProperties"] is False


NAMES = [name for name in package.__all__ if name.endswith(("Classifier", "DataModule")) and name not in BASES]
CLASSES = [getattr(package, name) for name in NAMES]


@pytest.mark.parametrize("cls", [*CLASSES, EarlyStopping, ModelCheckpoint], ids=lambda cls: cls.__name__)
def test_the_arguments_are_those_of_the_class(schema: dict[str, Any], cls: type) -> None:
    found = [each for path, each in schema["$defs"].items() if path.rpartition(".")[2] == cls.__name__]
    (definition,) = (each for each in found if "properties" in each)
    assert set(definition["properties"]) == set(class_arguments(cls))
    assert definition["additionalProperties"] is False
    assert definition["description"].split()[0] in (cls.__doc__ or "")


def test_all_optimizers_and_schedulers_can_be_chosen(schema: dict[str, Any]) -> None:
    for module, base in (
        (torch.optim, torch.optim.Optimizer),
        (torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
    ):
        names = [name for name, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, base)]
        part = "optimizer" if base is torch.optim.Optimizer else "lr_scheduler"
        for name in names:
            text = f"model: {{class_path: MLPClassifier, init_args: {{{part}: {module.__name__}.{name}}}}}"
            is_choice = not name.startswith("_") and name not in BASES
            assert bool(errors(schema, text)) != is_choice, name


def test_options_have_types_defaults_and_descriptions(schema: dict[str, Any]) -> None:
    options = schema["properties"]
    assert options["early_stopping"]["properties"]["patience"]["default"] == 5
    assert (
        options["trainer"]["properties"]["max_epochs"] | {"default": 10}
        == options["trainer"]["properties"]["max_epochs"]
    )
    assert options["trainer"]["properties"]["max_epochs"]["description"] == "Number of training epochs."
    cnn = schema["$defs"]["kindling.CNNClassifier"]["properties"]
    assert cnn["dropout"]["type"] == "number"
    assert "Output channels of each block" in cnn["channels"]["description"]
    assert cnn["channels"]["default"] == [32, 64]


def test_the_command_writes_it_with_the_classes_of_plugins(kindling: Command) -> None:
    Path("leaves.py").write_text(
        "from kindling import MLPClassifier as Base\n\n\nclass MLPClassifier(Base):\n"
        '    """A network for leaves."""\n\n'
        "    def __init__(self, veins: int = 3, **recipe):\n        super().__init__(**recipe)\n"
    )
    result = kindling("schema", "--plugin", "leaves.py", "--output", "editor/recipes.json")
    assert (result.code, result.out) == (0, "schema: editor/recipes.json\n")
    made = json.loads(Path("editor/recipes.json").read_text())
    own = "model: {class_path: %s, init_args: {veins: %s}}"
    assert not errors(made, own % ("MLPClassifier", 3))  # the short name refers to the plug-in
    assert not errors(made, own % ("leaves.MLPClassifier", 3))
    assert errors(made, own % ("leaves.MLPClassifier", "many"))
    assert errors(made, own % ("kindling.MLPClassifier", 3))
    assert made["$defs"]["leaves.MLPClassifier"]["description"] == "A network for leaves."


def test_the_configuration_of_a_run_is_valid(kindling: Command, schema: dict[str, Any]) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    assert not errors(schema, Path("runs/tiny/version_0/config.yaml").read_text())
