"""Search spaces in YAML, and their options."""

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kindling.tuning.search_space import SearchSpace
from kindling.utils.errors import UsageError

SPACE = {
    "model.optimizer.lr": {"low": "1e-4", "high": 0.1, "log": True},  # YAML reads 1e-4 as text
    "model.hidden": [[8], [32, 32]],
    "model.optimizer": ["AdamW", "SGD"],
    "model.batch_norm": [True, False],
    "data.batch_size": {"low": 16, "high": 64, "step": 16},
    "trainer.gradient_clip_val": [None, 1.0],
}


def test_ranges_and_choices_become_distributions() -> None:
    found = SearchSpace.parse(SPACE, "cnn.yaml").distributions
    assert found["model.optimizer.lr"] == FloatDistribution(1e-4, 0.1, log=True)
    assert found["data.batch_size"] == IntDistribution(16, 64, step=16)
    assert found["model.hidden"] == CategoricalDistribution(["[8]", "[32, 32]"])
    assert found["trainer.gradient_clip_val"] == CategoricalDistribution([None, 1.0])


def test_options_are_typed_as_a_user_would_with_classes_first() -> None:
    space = SearchSpace.parse(SPACE, "cnn.yaml")
    values = {
        "model.optimizer.lr": 0.001,
        "model.hidden": "[32, 32]",
        "model.optimizer": "SGD",
        "model.batch_norm": True,
        "data.batch_size": 32,
        "trainer.gradient_clip_val": None,
    }
    assert space.options(values) == [
        "--data.batch_size=32",
        "--model.batch_norm=true",
        "--model.hidden=[32, 32]",
        "--model.optimizer=SGD",
        "--trainer.gradient_clip_val=null",
        "--model.optimizer.lr=0.001",
    ]


def test_probes_contain_every_choice_and_both_ends() -> None:
    space = SearchSpace.parse(SPACE, "cnn.yaml")
    seen: dict[str, set[Any]] = {name: {probe[name] for probe in space.probes()} for name in SPACE}
    assert seen["model.optimizer.lr"] == {1e-4, 0.1}
    assert seen["model.hidden"] == {"[8]", "[32, 32]"}
    assert seen["data.batch_size"] == {16, 64}


def test_suggestions_lie_in_the_space_and_are_kept() -> None:
    space, study = SearchSpace.parse(SPACE, "cnn.yaml"), optuna.create_study()
    for _ in range(20):
        trial = study.ask()
        space.suggest(trial)
        once = dict(trial.params)
        space.suggest(trial)
        assert trial.params == once
        assert 1e-4 <= once["model.optimizer.lr"] <= 0.1
        assert once["data.batch_size"] in (16, 32, 48, 64)
        study.tell(trial, 1.0)


SETTINGS: dict[str, Any] = {
    "model.optimizer.lr": 0.01,
    "model.hidden": [8],
    "model.optimizer": "torch.optim.AdamW",
    "model.batch_norm": True,
    "data.batch_size": 32,
    "trainer.gradient_clip_val": None,
}


def test_the_point_of_a_config() -> None:
    space = SearchSpace.parse(SPACE, "cnn.yaml")
    point = space.point_of(SETTINGS)
    assert point is not None
    assert point["model.optimizer"] == "AdamW"
    assert point["model.hidden"] == "[8]"
    assert point["trainer.gradient_clip_val"] is None


@pytest.mark.parametrize("outside", [{"data.batch_size": 33}, {"model.optimizer.lr": 1.0}, {"model.hidden": [9]}])
def test_a_config_outside_of_the_space_has_no_point(outside: dict[str, Any]) -> None:
    assert SearchSpace.parse(SPACE, "cnn.yaml").point_of(SETTINGS | outside) is None
    assert SearchSpace.parse({"model.batch_norm": [True, False]}, "cnn.yaml").point_of({"model.batch_norm": 1}) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.1], "at least two different choices"),
        ([0.1, 0.1], "at least two different choices"),
        (0.1, "must be a list of choices, or {low: 1, high: 9}"),
        ({"low": 1, "hihg": 2}, "there is no hihg: did you mean high?"),
        ({"high": 2}, "low is missing"),
        ({"low": 2, "high": 2}, "low must be less than high, got 2 and 2"),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, "a multiple of step"),
        ({"low": 1, "high": 10, "step": 20}, "a multiple of step"),
        ({"low": 0, "high": 1, "log": "yes"}, "log must be true or false, got yes"),
        # In the words of Optuna:
        ({"low": 0, "high": 1, "log": True}, "low"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "step"),
        ({"low": 1, "high": 9, "step": 0}, "step"),
        ({"low": "small", "high": 1}, "low must be a number, got 'small'"),
        ({"low": True, "high": 2}, "low must be a number, got True"),
    ],
)
def test_invalid_values_are_named(values: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        SearchSpace.parse({"model.dropout": values}, "cnn.yaml")
    assert str(error.value).startswith("cnn.yaml: model.dropout: ")
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["checkpoint.monitor", "run_name", "seed_everything"])
def test_what_must_be_the_same_in_all_trials_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} can't be searched"):
        SearchSpace.parse({name: ["a", "b"]}, "cnn.yaml")


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cnn.yaml is empty"):
        SearchSpace.parse({}, "cnn.yaml")


def test_options_that_change_the_loss_need_another_metric() -> None:
    space = SearchSpace.parse({"model.label_smoothing": {"low": 0.0, "high": 0.1}}, "cnn.yaml")
    space.check_metric("val/accuracy", "cnn.yaml")
    with pytest.raises(UsageError, match=r"model.label_smoothing changes val/loss itself"):
        space.check_metric("val/loss", "cnn.yaml")
