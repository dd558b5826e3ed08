import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import TINY, Command, Train
from kindling import EnsembleClassifier, SyntheticDataModule, load
from kindling.models.loading import load_model

DATA = ["--data", "SyntheticDataModule", "--data.num_samples", "300"]
RUN = Path("runs/both/version_0")


@pytest.fixture
def members(trained: Train) -> list[str]:
    for seed, name in enumerate(("tiny", "other")):
        trained(*TINY, "--seed_everything", seed, "--test_after_fit", "false", "--run_name", name)
    return ["runs/tiny/version_0", "runs/other/version_0"]


def fit(kindling: Command, members: list[str], *options: str) -> str:
    result = kindling(
        *("fit", "--model", "EnsembleClassifier", "--model.checkpoints", f"[{', '.join(members)}]"),
        *("--run_name", "both", *DATA, *options),
    )
    assert result.code == 0, result.err
    return result.out


@pytest.mark.slow
def test_it_averages_the_probabilities_of_its_members(kindling: Command, members: list[str]) -> None:
    fit(kindling, members)
    inputs = torch.randn(5, 20) * 100  # so far out that their probabilities are 0 or 1
    checkpoints = [Path(member, "checkpoints", "best.ckpt") for member in members]
    for scaled in (inputs, inputs / 100):
        with torch.no_grad():
            ours = load_model(RUN / "checkpoints/best.ckpt")(scaled).softmax(1)  # before its temperature
            theirs = torch.stack([load_model(path)(scaled).softmax(1) for path in checkpoints]).mean(0)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_an_ensemble_checkpoint_no_longer_needs_its_members(kindling: Command, members: list[str]) -> None:
    printed = fit(kindling, members)
    measured = (RUN / "test_metrics.json").read_text()
    assert "validation split" in printed
    shutil.rmtree("runs/tiny")
    shutil.rmtree("runs/other")
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert (RUN / "test_metrics.json").read_text() == measured
    assert kindling("validate", "--ckpt_path", RUN).code == 0
    assert kindling("predict", "--ckpt_path", RUN).code == 0
    torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert EnsembleClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")(torch.randn(2, 20)).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_its_dashboard_has_a_graph_and_texts(kindling: Command, members: list[str]) -> None:
    assert "no graph" not in fit(kindling, members)
    tags = EventAccumulator(str(RUN / "train")).Reload().Tags()
    assert tags["graph"]
    assert set(tags["tensors"]) == {"config/text_summary", "model and commands/text_summary"}


def test_an_ensemble_is_not_trained(kindling: Command, members: list[str]) -> None:
    before = load_model(Path(members[0], "checkpoints", "best.ckpt")).state_dict()
    fit(kindling, members, "--trainer.max_epochs", "3")
    after = load_model(RUN / "checkpoints/best.ckpt").train().state_dict()
    for name, tensor in before.items():
        assert torch.equal(after[f"network.members.0.{name}"], tensor), name
    assert not any(module.training for module in load_model(RUN / "checkpoints/best.ckpt").train().network.modules())


@pytest.mark.slow
def test_an_ensemble_can_have_ensembles_as_members(kindling: Command, members: list[str]) -> None:
    fit(kindling, members)
    fit(kindling, [str(RUN), members[0]])
    assert len(load_model(Path("runs/both/version_1/checkpoints/best.ckpt")).hparams["checkpoints"]) == 2


def test_it_works_in_python(kindling: Command, members: list[str]) -> None:
    data = SyntheticDataModule(num_samples=300)
    model = EnsembleClassifier.for_data(data, checkpoints=members)
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    measured = trainer.test(model, data, verbose=False)[0]["test/accuracy"]
    with torch.no_grad():
        found = [load(member).predict(data.test.inputs).probabilities for member in members]
    expected = (np.mean(found, axis=0).argmax(1) == data.test.labels.numpy()).mean()
    assert measured == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.checkpoints", "[]"], "an ensemble needs members"),
        (["--model.checkpoints", "[runs/nowhere]"], "there is no checkpoint runs/nowhere"),
        (
            ["--model.checkpoints", "[runs/tiny]", "--data.num_classes", "4"],
            "member runs/tiny has another input shape or",
        ),
        (
            ["--model.checkpoints", "[runs/tiny]", "--data.num_features", "19"],
            "member runs/tiny has another input shape",
        ),
        (["--model.checkpoints", "[untrained.ckpt]"], "untrained.ckpt has not been trained"),
        (["--model.checkpoints", "[evil.ckpt]"], "os.mkdir, which is not a model"),
    ],
)
def test_mistakes_are_said_in_one_line(kindling: Command, members: list[str], options: list[str], message: str) -> None:
    good = torch.load(Path(members[0], "checkpoints", "best.ckpt"), weights_only=True)
    torch.save(good | {"global_step": 0}, "untrained.ckpt")
    evil = {"_class_path": "os.mkdir", "path": "made"}
    torch.save(good | {"hyper_parameters": evil}, "evil.ckpt")
    result = kindling("fit", "--model", "EnsembleClassifier", *DATA, *options, "--run_name", "no")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert message in result.err
    assert not Path("made").exists()
    assert not Path("runs/no").exists()


@pytest.fixture
def houses(folder: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"rooms": random.normal(4, 1, 120).round(2), "age": random.normal(50, 9, 120).round(1)})
    frame["price"] = [f"{value:.2f} EUR" for value in 50 * frame["rooms"] + random.normal(0, 5, 120)]
    frame["dollars"] = frame["price"].str.replace("EUR", "USD")
    frame["sold"], frame["rented"] = random.choice(["yes", "no"], (2, 120))
    frame.to_csv("houses.csv", index=False)
    frame.assign(price=frame["dollars"]).to_csv("america.csv", index=False)


@pytest.mark.slow
@pytest.mark.usefixtures("houses")
def test_members_that_predict_another_target_are_refused(kindling: Command) -> None:
    table = ["--data", "TableDataModule", "--trainer.max_epochs", "1"]
    for path, target in (("houses", "price"), ("america", "price"), ("houses", "dollars"), ("houses", "sold")):
        drop = json.dumps([name for name in ("price", "dollars", "sold", "rented") if name != target])
        model = "MLPClassifier" if target == "sold" else "MLPRegressor"
        options = ["--model", model, "--data.path", f"{path}.csv", "--data.target", target, "--data.drop", drop]
        result = kindling("fit", *options, *table, "--run_name", f"{path}_{target}")
        assert result.code == 0, result.err

    def ensemble(target: str, *members: str) -> str:
        kind = "EnsembleClassifier" if target in ("sold", "rented") else "EnsembleRegressor"
        drop = json.dumps([name for name in ("price", "dollars", "sold", "rented") if name != target])
        checkpoints = f"[{', '.join(f'runs/{member}' for member in members)}]"
        options = ["--data.path", "houses.csv", "--data.target", target, "--data.drop", drop, "--run_name", "all"]
        result = kindling("fit", "--model", kind, "--model.checkpoints", checkpoints, *table, *options)
        assert result.code == bool(result.err.count("error"))
        return str(result.err).strip().splitlines()[-1] if result.code else ""

    wrong = (
        "member runs/houses_dollars has the target dollars ($), but member runs/houses_price predicts price (€): all"
    )
    assert wrong in ensemble("price", "houses_price", "houses_dollars")
    wrong = "member runs/america_price has the target price ($), but member runs/houses_price predicts price (€)"
    assert wrong in ensemble("price", "houses_price", "america_price")
    assert "houses.csv or its split changed since training" in ensemble("rented", "houses_sold")  # other targets
    assert not Path("runs/all").exists()
    assert ensemble("price", "houses_price", "houses_price") == ""
    assert kindling("test", "--ckpt_path", "runs/all").code == 0
