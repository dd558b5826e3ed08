"""Several classes per sample: losses, metrics, and the models that are built for the targets."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from labels_data import ColorsDataModule, UnnamedColorsDataModule
from numbers_data import BrightnessDataModule
from sklearn.metrics import average_precision_score, f1_score, log_loss
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from conftest import Command
from kindling import (
    CNNMultiLabelClassifier,
    CNNRegressor,
    EnsembleMultiLabelClassifier,
    EnsembleRegressor,
    MLPMultiLabelClassifier,
    TransferMultiLabelClassifier,
    TransferRegressor,
)
from kindling.models.loading import load_model
from kindling.testing import check_data, check_model

FIT = "--model CNNClassifier --model.channels [4] --model.hidden 8 --data labels_data.ColorsDataModule".split()
QUICK = "--trainer.max_epochs 2 --test_after_fit false".split()


def outputs_and_targets(number: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    targets = (torch.rand(number, 4, generator=random) < torch.tensor([0.5, 0.3, 0.1, 0.6])).float()
    return 2 * torch.randn(number, 4, generator=random) + 2 * targets - 1, targets


def test_losses_agree_with_other_libraries() -> None:
    outputs, targets = outputs_and_targets()
    model = MLPMultiLabelClassifier(num_classes=4, input_shape=(2,))
    each = [log_loss(targets[:, label], outputs[:, label].double().sigmoid()) for label in range(4)]
    assert model.loss(outputs, targets).item() == pytest.approx(np.mean(each), rel=1e-5)
    focal = MLPMultiLabelClassifier(num_classes=4, input_shape=(2,), loss_function="focal")
    expected = sigmoid_focal_loss(outputs, targets, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(focal.loss(outputs, targets), expected)
    with pytest.raises(ValueError, match="loss_function must be one of bce, focal, got mse"):
        MLPMultiLabelClassifier(num_classes=4, input_shape=(2,), loss_function="mse")
    with pytest.raises(
        ValueError, match=r"needs a 0 or 1 for each class of a sample, shape \(300, 4\), but the targets"
    ):
        model.check_targets(outputs, targets[:, 0])


@pytest.mark.parametrize("size", [300, 64, 7])
def test_metrics_agree_with_scikit_learn_over_batches_of_unequal_size(size: int) -> None:
    outputs, targets = outputs_and_targets()
    model = MLPMultiLabelClassifier(num_classes=4, input_shape=(2,))
    metrics = model.metrics()
    for part in zip(torch.split(outputs, size), torch.split(targets, size), strict=True):
        metrics.update(*part)
    found = metrics.compute()
    assert found["map"].item() == pytest.approx(average_precision_score(targets, outputs), rel=1e-5)
    assert found["f1"].item() == pytest.approx(f1_score(targets, outputs > 0, average="macro"), rel=1e-5)
    metrics.reset()
    absent = targets * torch.tensor([1, 1, 0, 1])
    metrics.update(outputs, absent)
    others = [average_precision_score(targets[:, label], outputs[:, label]) for label in (0, 1, 3)]
    assert metrics.compute()["map"].item() == pytest.approx(np.mean(others), rel=1e-5)


def test_rare_classes_can_be_weighted() -> None:
    from lightning.pytorch import Trainer

    data = ColorsDataModule(batch_size=64)
    model = MLPMultiLabelClassifier.for_data(data, hidden=(4,), weighted_loss=True)
    Trainer(fast_dev_run=1, logger=False, enable_progress_bar=False, enable_model_summary=False).fit(model, data)
    positives = data.train.labels.sum(0)
    torch.testing.assert_close(model.positive_weights, (len(data.train) - positives) / positives)
    outputs, targets = torch.randn(5, 3), data.train.labels[:5]
    assert model.positive_weights is not None
    weights = 1 + targets * (model.positive_weights - 1)
    expected = F.binary_cross_entropy_with_logits(outputs, targets, weight=weights)
    torch.testing.assert_close(model.loss(outputs, targets), expected)


def test_the_model_is_that_of_the_targets(kindling: Command) -> None:
    check_data(ColorsDataModule())
    result = kindling("fit", *FIT, "--model.label_smoothing", "0.1", "--trainer.fast_dev_run", "1")
    assert result.code == 2, result.err
    assert "it has no label_smoothing: remove --model.label_smoothing" in result.err
    result = kindling("fit", *FIT, "--trainer.fast_dev_run", "1")
    assert result.code == 0, result.err
    assert "CNNMultiLabelClassifier instead of CNNClassifier, because the targets are multi-label targets" in result.out
    unnamed = [*FIT[:-1], "labels_data.UnnamedColorsDataModule", "--trainer.fast_dev_run", "1"]
    unnamed[1] = "CNNMultiLabelClassifier"
    result = kindling("fit", *unnamed)
    assert result.code == 0, result.err
    assert CNNMultiLabelClassifier.for_data(UnnamedColorsDataModule(), channels=(4,)).num_classes == 3
    result = kindling("fit", *FIT[:-1], "SyntheticDataModule", "--model", "MLPMultiLabelClassifier")
    assert "MLPMultiLabelClassifier predicts multi-label targets, but the targets are classes: use a" in result.err
    result = kindling("fit", "--model", "CNNRegressor", *FIT[2:])
    assert "CNNRegressor predicts numbers, but the targets are multi-label targets: use a multi-label" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CNNMultiLabelClassifier", "CNNRegressor"])
def test_networks_pass_the_checks_of_projects(name: str) -> None:
    model, data = {
        "CNNMultiLabelClassifier": (CNNMultiLabelClassifier, ColorsDataModule(batch_size=32)),
        "CNNRegressor": (CNNRegressor, BrightnessDataModule(batch_size=32)),
    }[name]
    check_model(model, data, channels=(8,), formats=(), optimizer=partial(torch.optim.Adam, lr=0.01))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("model", "data"),
    [(TransferMultiLabelClassifier, ColorsDataModule), (TransferRegressor, BrightnessDataModule)],
)
def test_cached_features_train_the_head_as_images_do(
    kindling: Command, caplog: pytest.LogCaptureFixture, model: type, data: type
) -> None:
    source = [
        "--model",
        model.__name__.replace("Transfer", "CNN"),
        *FIT[2:6],
        "--data",
        f"{data.__module__}.{data.__name__}",
    ]
    assert kindling("fit", *source, *QUICK, "--run_name", "source").code == 0
    fit = [
        *("fit", "--model", model.__name__, "--model.backbone", "runs/source", "--model.unfreeze_epoch", "3"),
        *(*source[-2:], "--trainer.max_epochs", "4", "--test_after_fit", "false", "--data.batch_size", "50"),
    ]
    weights = []
    for cached in ("true", "false"):
        result = kindling(*fit, "--model.cache_features", cached, "--run_name", cached)
        assert result.code == 0, result.err
        assert (
            "computing the features of 200 images once" in result.err or cached == "false"
        ) or "features" in result.err
        stored = torch.load(f"runs/{cached}/version_0/checkpoints/last.ckpt", weights_only=True)
        assert stored["frozen"] is False
        weights.append(stored["state_dict"])
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-5)
    source_weights = torch.load("runs/source/version_0/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(weights[0]["network.backbone.0.weight"], source_weights["network.0.weight"])


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("model", "data"),
    [(EnsembleMultiLabelClassifier, ColorsDataModule), (EnsembleRegressor, BrightnessDataModule)],
)
def test_an_ensemble_averages_what_its_members_predict(kindling: Command, model: type, data: type) -> None:
    source = f"{data.__module__}.{data.__name__}"
    member = ["fit", "--model", model.__name__.replace("Ensemble", "CNN"), *FIT[2:6], "--data", source]
    for seed in (0, 1):
        assert kindling(*member, *QUICK, "--seed_everything", seed, "--run_name", "member").code == 0
    both = "[runs/member/version_0, runs/member/version_1]"
    result = kindling(
        "fit", "--model", model.__name__, "--model.checkpoints", both, "--data", source, "--run_name", "all"
    )
    assert result.code == 0, result.err
    ensemble = load_model(Path("runs/all/version_0/checkpoints/best.ckpt"))
    members = [load_model(Path(f"runs/member/version_{seed}/checkpoints/best.ckpt")) for seed in (0, 1)]
    inputs = data().load("test")[0].float() / 255
    with torch.no_grad():
        for scale in (1, 100):  # so far out that probabilities are 0 or 1
            found = ensemble.to_prediction(ensemble(scale * inputs))
            each = torch.stack([one.to_prediction(one(scale * inputs)) for one in members])
            torch.testing.assert_close(found, each.mean(0), rtol=1e-4, atol=1e-6)
            assert not found.isnan().any()
    other = "EnsembleClassifier" if model is EnsembleRegressor else "EnsembleRegressor"
    result = kindling("fit", "--model", other, "--model.checkpoints", both, "--data", "DigitsDataModule")
    assert result.code in (1, 2)
    assert f"the members of {other} must predict" in result.err or "the targets are" in result.err
    assert math.isfinite(float(found.sum()))
