"""The losses that `loss_function` names."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error, r2_score
from torch import nn

from kindling import MLPClassifier, MLPRegressor, RegressionTask
from kindling.models.metrics import R2
from kindling.models.regression import LOSSES


class Constant(RegressionTask):
    """Predicts the same number for all samples."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Linear(1, 1)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)


def huber(targets: np.ndarray, predictions: np.ndarray) -> float:
    errors = np.abs(predictions - targets)
    return float(np.where(errors < 1, errors**2 / 2, errors - 0.5).mean())


def test_losses_of_numbers_are_those_of_standardized_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = 200_000 + 50_000 * torch.randn(500, generator=generator)
    outputs = targets + 30_000 * torch.randn(500, generator=generator)
    high, low = np.quantile(targets.double().numpy(), (0.95, 0.05))
    robust, std = (high - low) / (2 * norm.ppf(0.95)), targets.double().std().item()
    scales = {"mse": std, "mae": robust, "huber": robust, "quantile": robust}
    true, predicted = (
        {name: values.double().numpy() / scale for name, scale in scales.items()} for values in (targets, outputs)
    )
    expected = {
        "mse": mean_squared_error(true["mse"], predicted["mse"]),
        "mae": mean_absolute_error(true["mae"], predicted["mae"]),
        "huber": huber(true["huber"], predicted["huber"]),
        "quantile": mean_pinball_loss(true["quantile"], predicted["quantile"], alpha=0.9),
    }
    assert expected.keys() == LOSSES.keys()
    for name, loss in expected.items():
        quantile = {"quantile": 0.9} if name == "quantile" else {}
        model = MLPRegressor(input_shape=(3,), loss_function=name, **quantile)  # type: ignore[arg-type]
        model.standardize(targets)
        assert model.loss(outputs, targets).item() == pytest.approx(loss, rel=1e-3), name


@pytest.mark.parametrize(
    ("loss_function", "expected"),
    [("mse", np.mean), ("mae", np.median), ("quantile", lambda targets: np.quantile(targets, 0.9))],
)
def test_each_loss_finds_its_own_center(loss_function: str, expected: object) -> None:
    targets = torch.from_numpy(np.random.default_rng(0).lognormal(0, 1, 301)).float()
    quantile = {"quantile": 0.9} if loss_function == "quantile" else {}
    model = Constant(input_shape=(1,), loss_function=loss_function, **quantile)
    model.standardize(targets)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(600):
        optimizer.zero_grad()
        model.loss(model(torch.zeros(301, 1)), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    found = model(torch.zeros(1, 1)).item()
    assert found == pytest.approx(expected(targets.numpy()), rel=0.03)  # type: ignore[operator]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positions", [(), (4,)])
def test_the_focal_loss_is_that_of_the_paper(weighted: bool, positions: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, *positions, generator=generator)
    labels = torch.randint(3, (50, *positions), generator=generator)
    model = MLPClassifier(input_shape=(2,), num_classes=3, loss_function="focal", weighted_loss=weighted)
    weights = torch.tensor([0.5, 1.0, 2.0]) if weighted else torch.ones(3)
    if model.class_weights is not None:
        model.class_weights.copy_(weights)
    right = logits.softmax(dim=1).movedim(1, -1).reshape(-1, 3)[range(labels.numel()), labels.flatten()]
    expected = (weights[labels.flatten()] * -((1 - right) ** 2) * right.log()).mean()
    assert model.loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_unknown_losses_are_named() -> None:
    with pytest.raises(ValueError, match="loss_function must be one of cross_entropy, focal, got mse"):
        MLPClassifier(input_shape=(2,), num_classes=2, loss_function="mse")


def test_dropout_does_not_shift_the_mean_of_the_predictions() -> None:
    torch.manual_seed(0)
    model = MLPRegressor(input_shape=(4,), hidden=(64, 64), dropout=0.5)
    inputs = torch.randn(1, 4)
    with torch.no_grad():
        trained = model.train()(inputs.expand(20_000, 4))
        expected = model.eval()(inputs).item()
    assert trained.std() > 0
    assert trained.mean().item() == pytest.approx(expected, abs=4 * trained.std().item() / 20_000**0.5)


@pytest.mark.parametrize(("mean", "scale"), [(1e5, 10), (0, 1e-6), (1e-3, 1e-6)])
def test_r2_is_exact_whatever_the_size_of_the_targets(mean: float, scale: float) -> None:
    random = torch.Generator().manual_seed(0)
    targets = mean + scale * torch.randn(5000, generator=random)
    values = targets + 0.3 * scale * torch.randn(5000, generator=random)
    metric = R2()
    for place in range(0, 5000, 256):
        metric.update(values[place : place + 256], targets[place : place + 256])
    assert metric.compute().item() == pytest.approx(r2_score(targets.double(), values.double()), abs=1e-4)


def test_weights_are_named_as_in_checkpoints_with_dropout_in_each_hidden_layer() -> None:
    network = MLPRegressor(input_shape=(4,), hidden=(8, 8), dropout=0.2).network
    assert {name.split(".")[0] for name in network.state_dict()} == {"1", "4", "7"}
