"""Recipes with structural errors: a key that is misspelt, misplaced or without a space after its colon."""

from pathlib import Path

import pytest

from conftest import TINY, Command

OPTIMIZER = "model: {class_path: MLPClassifier, init_args: {optimizer: {%s}}}"
MISTAKES = {
    "model:\n  class_path: MLPClassifier\n  init_arg:\n    hidden: [8]": (
        "r.yaml: there is no model.init_arg: did you mean model.init_args?"
    ),
    "data: {class_path: SyntheticDataModule, initargs: {num_samples: 300}}": "did you mean data.init_args?",
    "model: {class_path: MLPClassifier, args: {hidden: [8]}}": "did you mean model.init_args?",
    "model: {class_pth: MLPClassifier}": "there is no model.class_pth: did you mean model.class_path?",
    "model: {class_path: MLPClassifier, hidden: [8]}": "go below init_args: model.init_args.hidden",
    OPTIMIZER % "class_path: SGD, init_arg: {lr: 1}": "did you mean model.init_args.optimizer.init_args?",
    OPTIMIZER % "clas_path: SGD": "did you mean model.init_args.optimizer.class_path?",
    "averaging: {class_path: EMA, Init_Args: {decay: 0.9}}": "did you mean averaging.init_args?",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_arg: {monitor: x}}]}": (
        "did you mean trainer.callbacks[0].init_args?"
    ),
    "trainer: {callbacks: {class_path: EarlyStopping, monitor: x}}": "trainer.callbacks.init_args.monitor",
    "trainer: {logger: {class_paht: CSVLogger}}": "did you mean trainer.logger.class_path?",
    "model: MLPClassifier\ninit_args:\n  hidden: [8]": "init_args belongs to a class: indent it",
    "trainer:\n  max_epochs:10": "r.yaml: trainer: write max_epochs: 10, with a space after the colon",
    "trainer:\n  max_epochs:10\n  devices:1": "trainer: write max_epochs: 10, with a space after the colon",
    "trainer:\n  max_epochs:10\n  devices: 1": "line 2: write max_epochs: 10, with a space after the colon",
    "trainer:\n  devices: 1\n  max_epochs:10": "line 3: write max_epochs: 10, with a space after the colon",
    "seed_everything:3": "r.yaml: write seed_everything: 3, with a space after the colon",
    "seed_everything:3\nmodel: MLPClassifier": "line 1: write seed_everything: 3, with a space after the colon",
    "model:\n  class_path:MLPClassifier": "model: write class_path: MLPClassifier, with a space after the colon",
    "model:\n  init_args:\n    hidden:[8, 4]": "model.init_args: write hidden: [8, 4], with a space after the colon",
    "checkpoint:\n  monitor:val/loss": "checkpoint: write monitor: val/loss, with a space after the colon",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_the_key_and_its_correct_form_are_named(kindling: Command, text: str) -> None:
    Path("r.yaml").write_text(text)
    result = kindling("fit", "--config", "r.yaml")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert MISTAKES[text] in result.err
    assert len(result.err) < 300


def test_valid_structures_are_accepted(kindling: Command) -> None:
    """Arguments without a class, and texts with a colon."""
    Path("r.yaml").write_text(
        "model: {hidden: [8], optimizer: {lr: 0.1}}\ndata: {num_samples: 300}\n"
        "trainer: {max_time: '00:01:00:00', callbacks: {class_path: helpers.CrashAt, init_args: {step: 100}}}\n"
    )
    assert kindling("fit", *TINY[:2], "--data", "SyntheticDataModule", "--config", "r.yaml", "--print_config").code == 0
