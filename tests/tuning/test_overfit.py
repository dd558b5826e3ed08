import re
from pathlib import Path

import pytest
import torch

from conftest import TINY, Command
from kindling import MLPClassifier, SyntheticDataModule, overfit_batch


@pytest.mark.slow
def test_overfit_reports_success_and_writes_no_files(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--model.dropout", "0.9", "--model.label_smoothing", "0.5", "--overfit")
    assert (result.code, result.err) == (0, "")
    assert "the network can overfit one batch of 32 samples: accuracy 100.0%, loss " in result.out
    assert not Path("runs").exists()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("recipe", ["quickstart", "synthetic_mlp"])
def test_recipes_can_learn(kindling: Command, recipe: str) -> None:
    result = kindling("fit", "--config", f"configs/{recipe}.yaml", "--overfit")
    assert re.search(r"the network can overfit one batch of \d+ samples: accuracy 100", result.out)


@pytest.mark.slow
def test_a_network_that_cannot_learn_is_reported(kindling: Command) -> None:
    result = kindling("fit", "--model", "helpers.SigmoidClassifier", *TINY[4:], "--overfit")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the network can't overfit one batch of " in result.err


def test_a_regression_network_must_reduce_its_loss_to_a_fraction(kindling: Command) -> None:
    result = kindling("fit", "--model", "helpers.SumRegressor", "--data", "helpers.SumDataModule", "--overfit")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"the network can overfit one batch of 64 samples: loss \S+ -> \S+ after \d+ steps\n", result.out)


def test_model_and_random_state_are_unchanged() -> None:
    data = SyntheticDataModule(num_samples=300)
    model = MLPClassifier.for_data(data, hidden=(16,), batch_norm=True, dropout=0.5, label_smoothing=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    learnt = overfit_batch(model, data, accelerator="cpu")
    assert learnt.succeeded
    assert learnt.samples == 64
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.network.get_submodule("4").p == 0.5
    assert model.label_smoothing == 0.1
