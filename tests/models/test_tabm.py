"""TabM: embeddings of numbers, an ensemble that shares weights, and the recipe for tables that trains it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neural_network import MLPRegressor
from torch.nn import functional as F

from conftest import Command
from kindling import SyntheticDataModule, TabMClassifier, TabMRegressor
from kindling.data.loaders import automatic_batch_size
from kindling.models.tabm_network import MemberLinear, NumberEmbedding, drop
from rows import read, table

__all__ = ["table"]


def test_an_embedding_interpolates_between_quantiles() -> None:
    torch.manual_seed(0)
    numbers = torch.stack([torch.randn(500), torch.randint(3, (500,)).float()], dim=1)
    embedding = NumberEmbedding(2, bins=8, width=1)
    embedding.learn_bins(numbers)
    quantiles = np.quantile(numbers[:, 0], np.linspace(0, 1, 9))
    assert np.allclose(embedding.edges[0], quantiles, atol=1e-5)
    assert {*embedding.edges[1].tolist()} == {0, 1, 2}  # a number of few values has an edge at each

    found = embedding(numbers).detach().numpy()
    for column, edges in enumerate((quantiles, np.array([0, 1, 2]))):
        heights = np.r_[0, embedding.pieces[column, : len(edges) - 1, 0].detach().cumsum(0)]
        slope, bias = embedding.slope[column].item(), embedding.bias[column].item()
        expected = np.interp(numbers[:, column], edges, heights) + slope * numbers[:, column].numpy() + bias
        assert np.allclose(found[:, column], expected, atol=1e-4)


def members_outputs(model: TabMClassifier | TabMRegressor, inputs: torch.Tensor) -> torch.Tensor:
    """The outputs of each member (members, N, outputs) as a network of its own with dense weights."""
    network, outputs = model.network, []
    embedded = network.embedding(inputs[:, network.numbers]) if network.embedding else inputs[:, :0]
    for member in range(len(network.head)):
        values = torch.cat([inputs[:, network.others], embedded], dim=1)
        for layer in network.layers:
            assert isinstance(layer, MemberLinear)
            weight = layer.out_scale[member].T * layer.weight * layer.in_scale[member]
            values = F.linear(values, weight, layer.bias[member, 0]).relu()
        outputs.append(values @ network.head[member] + network.head_bias[member])
    return torch.stack(outputs)


def test_members_are_networks_of_their_own_that_are_trained_separately_and_averaged() -> None:
    torch.manual_seed(0)
    inputs, labels, targets = torch.randn(20, 5), torch.randint(3, (20,)), torch.randn(20)
    classifier = TabMClassifier(num_classes=3, input_shape=(5,), numeric_features=(1, 4), hidden=(8, 6), dropout=0.0)
    members = members_outputs(classifier, inputs)
    assert (members[0] - members[1]).abs().max() > 0.01
    expected = members.softmax(dim=2).mean(dim=0)
    assert torch.allclose(classifier.eval()(inputs).softmax(dim=1), expected, atol=1e-6)
    loss, outputs = classifier.train().loss_and_outputs(inputs, labels)
    assert loss.item() == pytest.approx(np.mean([F.cross_entropy(one, labels).item() for one in members]), rel=1e-5)
    assert torch.allclose(outputs.softmax(dim=1), expected, atol=1e-6)

    regressor = TabMRegressor(input_shape=(5,), hidden=(8,), dropout=0.0)
    regressor.target_mean.fill_(3)
    members = 3 + members_outputs(regressor, inputs)[:, :, 0]
    assert torch.allclose(regressor.eval()(inputs), members.mean(dim=0), atol=1e-6)
    loss, outputs = regressor.train().loss_and_outputs(inputs, targets)
    assert loss.item() == pytest.approx(((members - targets) ** 2).mean().item(), rel=1e-5)
    assert outputs.shape == targets.shape


def test_only_numbers_of_a_table_are_embedded(table: pd.DataFrame) -> None:
    data = read()
    model = TabMClassifier.for_data(data)
    columns = [column["name"] for column in data.fitted["columns"]]
    assert columns == ["age", "spent", "plan", "visits", "member", "abroad"]
    # Features: age and whether it is missing, spent, 3 plans and whether it is missing, visits, member, abroad.
    assert data.numeric_features == (0, 2, 7)
    assert model.network.numbers == [0, 2, 7]
    assert model.hparams["numeric_features"] == (0, 2, 7)
    assert read(target="plan").numeric_features == (0, 2, 3)


def test_it_works_without_numbers_and_names_a_wrong_argument() -> None:
    model = TabMClassifier.for_data(SyntheticDataModule(), numeric_features=(), hidden=(4,))
    assert model.eval()(model.example_inputs()).shape == (1, model.num_classes)
    with pytest.raises(ValueError, match="`members` must be at least 1, got 0"):
        TabMClassifier.for_data(SyntheticDataModule(), members=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        TabMRegressor(input_shape=(3,), dropout=1.0)


def test_dropout_zeroes_a_fraction_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = drop(torch.ones(100_000), 0.2)
    assert (dropped == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    assert {*dropped.tolist()} == {0, 1.25}


@pytest.mark.slow
def test_the_recipe_learns_sharp_changes(kindling: Command) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(1500, 4)), columns=[*"abcd"])
    wave = np.sin(9 * frame["a"]) + np.sign(frame["b"] * frame["c"])
    frame.assign(y=np.where(wave > 0, "up", "down")).to_csv("classes.csv", index=False)
    frame.assign(y=1000 * wave).to_csv("numbers.csv", index=False)
    metrics: dict[str, float] = {}
    for name in ("classes", "numbers"):
        options = f"--data.path {name}.csv --data.target y --trainer.max_epochs 15 --run_name {name}"
        assert kindling("fit", "--config", "table_mlp", *options.split()).code == 0
        metrics |= json.loads(Path(f"runs/{name}/version_0/test_metrics.json").read_text())
    train = (pd.read_csv("runs/numbers/version_0/split.csv")["split"] == "train").to_numpy()
    plain = MLPRegressor(hidden_layer_sizes=(128, 128), max_iter=40, random_state=0).fit(frame[train], wave[train])
    assert metrics["test/r2"] > plain.score(frame[~train], wave[~train]) + 0.1
    assert metrics["test/accuracy"] > 0.85


def test_the_batch_size_follows_the_number_of_rows(kindling: Command, table: pd.DataFrame) -> None:
    sizes = [automatic_batch_size(rows) for rows in (100, 1000, 5000, 50_000, 900_000)]
    assert sizes == [32, 32, 128, 256, 2048]
    options = "--config table_mlp --data.path customers.csv --data.target churned --trainer.max_epochs 1"
    assert kindling("fit", *options.split()).code == 0
    resumed = kindling("fit", "--ckpt_path", "runs/table_mlp", "--trainer.max_epochs", "2")
    assert resumed.code == 0, resumed.err
    result = kindling("fit", *options.split(), "--data.batch_size", "automatic")
    assert result.code == 2
    assert "batch_size" in result.err
