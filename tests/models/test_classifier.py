import csv
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn
from torchmetrics import MetricCollection

from conftest import TINY, Command, Train
from helpers import SumDataModule, SumRegressor
from kindling import ClassificationTask, CNNClassifier, MLPClassifier, SyntheticDataModule
from kindling.data.datamodule import ArrayDataset
from kindling.models.cnn import automatic_blocks, cnn
from kindling.models.metrics import Accuracy
from kindling.models.metrics_module import restore_metrics

MNIST: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 28, 28)}
RUN = Path("runs/tiny/version_0")


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def quick_trainer(**arguments: object) -> Trainer:
    return Trainer(
        **{"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False} | arguments,  # type: ignore[arg-type]
        enable_model_summary=False,
    )


def column(name: str, run: Path = RUN, file: str = "metrics.csv") -> list[float]:
    with (run / file).open(newline="") as opened:
        return [float(row[name]) for row in csv.DictReader(opened) if row[name]]


def test_networks_have_as_many_parameters_as_were_counted_by_hand() -> None:
    assert parameters(MLPClassifier(hidden=(128,), **MNIST)) == 101_770
    assert parameters(CNNClassifier(channels=(32, 64), hidden=128, batch_norm=False, **MNIST)) == 225_034


@pytest.mark.parametrize("options", [{}, {"batch_norm": False}, {"strided_stem": True}, {"channels": "auto"}], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 7), (1, 8, 8), (4, 5, 33), (3, 64, 64)])
def test_the_cnn_takes_images_of_any_size(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    options = {"channels": (4, 8, 8)} | options
    model = CNNClassifier(hidden=16, num_classes=3, input_shape=shape, **options)
    assert model(torch.rand(5, *shape)).shape == (5, 3)


@pytest.mark.parametrize("side", [28, 32, 45, 64, 96, 128, 200, 224])
def test_automatic_channels_fit_the_size_of_the_images(side: int) -> None:
    model = CNNClassifier(channels="auto", num_classes=3, input_shape=(3, side, side))
    layers = list(model.network.children())
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    shapes: list[tuple[int, ...]] = []
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d | torch.nn.AdaptiveAvgPool2d):
            layer.register_forward_hook(lambda _, inputs, outputs: shapes.extend([inputs[0].shape, outputs.shape]))
    model(torch.rand(2, 3, side, side))
    assert 28 <= shapes[1][2] <= 56
    assert 2 <= shapes[-2][2] <= 4  # before the mean of each channel
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128, 256][: len(convolutions)]


def test_options_add_their_layers() -> None:
    def kinds(model: ClassificationTask) -> set[str]:
        return {type(layer).__name__ for layer in model.network.modules()}

    assert {"BatchNorm1d", "Dropout"} <= kinds(MLPClassifier(dropout=0.1, batch_norm=True, **MNIST))
    assert not {"BatchNorm1d", "Dropout"} & kinds(MLPClassifier(**MNIST))
    assert {"BatchNorm2d", "Dropout"} <= kinds(CNNClassifier(dropout=0.1, **MNIST))
    assert not {"BatchNorm2d", "Dropout"} & kinds(CNNClassifier(batch_norm=False, **MNIST))


def test_class_names_default_to_the_labels() -> None:
    assert MLPClassifier(**MNIST).class_names == tuple("0123456789")
    assert MLPClassifier(num_classes=2, input_shape=(4,), class_names=("no", "yes")).class_names == ("no", "yes")


def test_the_model_normalizes_its_inputs() -> None:
    inputs = torch.rand(4, 2, 3, 3)
    raw = MLPClassifier(num_classes=3, input_shape=(2, 3, 3))
    normalizing = MLPClassifier(num_classes=3, input_shape=(2, 3, 3), mean=(0.2, 0.5), std=(0.1, 2.0))
    normalizing.network = raw.network
    by_hand = torch.stack([(inputs[:, 0] - 0.2) / 0.1, (inputs[:, 1] - 0.5) / 2.0], dim=1)
    torch.testing.assert_close(normalizing(inputs), raw(by_hand))


@pytest.mark.parametrize("eval_batch_size", [7, 64, 1000])
def test_metrics_agree_with_scikit_learn_over_batches_of_unequal_size(eval_batch_size: int) -> None:
    data = SyntheticDataModule(num_samples=500, num_classes=5, val_split=123, eval_batch_size=eval_batch_size)
    model = MLPClassifier.for_data(data)
    figures = quick_trainer().validate(model, data, verbose=False)[0]
    with torch.no_grad():
        probabilities = model(data.val.inputs).softmax(dim=1).double().numpy()
    labels, guesses = data.val.labels.numpy(), probabilities.argmax(axis=1)
    assert figures["val/accuracy"] == pytest.approx(accuracy_score(labels, guesses), abs=1e-6)
    assert figures["val/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, guesses), abs=1e-6)
    assert figures["val/f1"] == pytest.approx(f1_score(labels, guesses, average="macro"), abs=1e-6)
    assert figures["val/loss"] == pytest.approx(log_loss(labels, probabilities), abs=1e-5)


def test_training_metrics_are_those_of_the_batches_seen(kindling: Command) -> None:
    """With a learning rate of 0 the network stays as it is, so training metrics can be computed afterwards."""
    kindling("fit", *TINY, "--model.optimizer", "SGD", "--model.optimizer.lr", "0", "--data.batch_size", "50")
    model = MLPClassifier.load_from_checkpoint(RUN / "checkpoints/last.ckpt")
    data = SyntheticDataModule(num_samples=300)
    data.setup("fit")
    with torch.no_grad():
        probabilities = model(data.train.inputs).softmax(dim=1).double().numpy()
    labels = data.train.labels.numpy()
    assert column("train/loss") == pytest.approx([log_loss(labels, probabilities)] * 2, abs=1e-5)
    assert column("train/accuracy") == pytest.approx(
        [accuracy_score(labels, probabilities.argmax(axis=1))] * 2, abs=1e-6
    )


def test_a_weighted_loss_gives_every_class_the_same_weight(kindling: Command) -> None:
    data = SyntheticDataModule(num_samples=300, val_split=60)
    data.setup("fit")
    kept = (data.train.labels > 0) | (torch.arange(len(data.train)) % 10 == 0)  # class 0 is rare now
    data.train = ArrayDataset(data.train.inputs[kept], data.train.labels[kept])
    model = MLPClassifier.for_data(data, weighted_loss=True, optimizer=partial(torch.optim.SGD, lr=0.0))
    trainer = quick_trainer(max_epochs=1)
    trainer.fit(model, data)
    with torch.no_grad():
        probabilities = model.eval()(data.train.inputs).softmax(dim=1).double().numpy()
    labels = data.train.labels.numpy()
    by_sample = compute_sample_weight("balanced", labels)
    expected = log_loss(labels, probabilities, sample_weight=by_sample)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected, abs=1e-5)
    balanced = 1 / compute_sample_weight("balanced", labels)[[int((labels == label).argmax()) for label in range(3)]]
    assert model.class_weights is not None
    torch.testing.assert_close(1 / model.class_weights.double(), torch.from_numpy(balanced), rtol=1e-5, atol=0)


def test_a_class_without_samples_is_weighted_like_one_with_a_single_sample() -> None:
    model = MLPClassifier(num_classes=3, input_shape=(4,), weighted_loss=True)
    model.trainer = SimpleNamespace(datamodule=SimpleNamespace(class_counts=(1, 0, 8)))  # type: ignore[assignment]
    model.setup("fit")
    assert model.class_weights is not None
    assert model.class_weights.tolist() == [3, 3, 0.375]


def test_label_smoothing_spreads_the_target_over_all_classes() -> None:
    model = MLPClassifier(num_classes=3, input_shape=(4,), label_smoothing=0.2)
    inputs, labels = torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    log_probabilities = model(inputs).log_softmax(dim=1)
    plain = -log_probabilities[range(6), labels].mean()
    torch.testing.assert_close(model.training_step((inputs, labels), 0), 0.8 * plain - 0.2 * log_probabilities.mean())


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("epochs", "warm_up_steps"), [(1.0, 7), (1.5, 10.5)])
def test_warm_up_raises_the_learning_rate_step_by_step(kindling: Command, epochs: float, warm_up_steps: float) -> None:
    kindling("fit", *TINY, "--model.warmup_epochs", epochs, "--trainer.log_every_n_steps", "1")
    expected = [1e-3 * min(1.0, (step + 1) / warm_up_steps) for step in range(14)]
    assert column("lr") == pytest.approx(expected, rel=1e-5)


def test_warm_up_counts_steps_of_several_batches(kindling: Command) -> None:
    options = "--trainer.accumulate_grad_batches 2 --trainer.log_every_n_steps 1 --trainer.max_epochs 3"
    kindling("fit", *TINY, "--model.warmup_epochs", "2", *options.split())
    steps = 2 * 7 / 2
    assert column("lr") == pytest.approx([1e-3 * min(1.0, (step + 1) / steps) for step in range(3 * 4)], rel=1e-5)


@pytest.mark.slow
def test_warm_up_works_with_a_scheduler(kindling: Command) -> None:
    schedule = ["--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler.gamma", "0.5"]
    kindling("fit", *TINY, *schedule, "--model.warmup_epochs", "2", "--trainer.log_every_n_steps", "1")
    expected = [1e-3 * 0.5 ** (step // 7) * (step + 1) / 14 for step in range(14)]
    assert column("lr") == pytest.approx(expected, rel=1e-5)


def test_a_resumed_model_warms_up_again_when_retrained() -> None:
    class Rates(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    seen: list[float] = []
    data = SyntheticDataModule(num_samples=300, batch_size=32)
    model = MLPClassifier.for_data(data, warmup_epochs=1)
    model.on_load_checkpoint({"schedule_start": 28})  # as `load_from_checkpoint` does
    quick_trainer(callbacks=[Rates()]).fit(model, data)
    assert seen == pytest.approx([1e-3 * (step + 1) / 7 for step in range(7)])


class SlowStart(MLPClassifier):
    """A network whose first layer learns at a tenth of the rate of the others."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        first, *others = super().parameter_groups()[0]["params"]
        return [{"params": [first], "name": "first", "lr_scale": 0.1}, {"params": others, "name": "others"}]


def test_groups_of_parameters_learn_at_their_share_of_the_rate(kindling: Command) -> None:
    options = "--model.hidden [8] --model.warmup_epochs 1 --trainer.log_every_n_steps 1"
    assert kindling("fit", *TINY[4:], "--model", f"{__name__}.SlowStart", *options.split()).code == 0
    expected = [1e-3 * min(1.0, (step + 1) / 7) for step in range(14)]
    assert column("lr/others") == pytest.approx(expected, rel=1e-5)
    assert column("lr/first") == pytest.approx([rate / 10 for rate in expected], rel=1e-5)


def epoch_rates(kindling: Command, *schedule: str, epochs: int, steps: int = 7) -> list[float]:
    kindling("fit", *TINY, *schedule, "--trainer.max_epochs", epochs, "--trainer.log_every_n_steps", "1")
    return column("lr")[::steps]


@pytest.mark.slow
def test_step_lr_steps_after_its_epochs(kindling: Command) -> None:
    schedule = [
        "--model.lr_scheduler",
        "StepLR",
        "--model.lr_scheduler.step_size",
        "5",
        "--early_stopping.patience",
        "99",
    ]
    rates = epoch_rates(kindling, *schedule, epochs=11)
    assert rates == pytest.approx([1e-3] * 5 + [1e-4] * 5 + [1e-5], rel=1e-5)


@pytest.mark.slow
def test_reduce_lr_on_plateau_steps_after_its_patience(kindling: Command) -> None:
    # No validation loss falls by 10: the first counts as best, two more are waited for.
    schedule = (
        "--model.lr_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau --model.lr_scheduler.patience 2 "
        "--model.lr_scheduler.threshold 10 --model.lr_scheduler.threshold_mode abs"
    ).split()
    rates = epoch_rates(kindling, *schedule, "--early_stopping.patience", "99", epochs=8)
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 3 + [1e-5], rel=1e-5)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("typed", "steps"), [([], 14), (["--model.lr_scheduler.total_steps", "30"], 30)])
def test_one_cycle_spans_the_run_unless_told_otherwise(kindling: Command, typed: list[str], steps: int) -> None:
    cycle = ["--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", "0.01"]
    kindling("fit", *TINY, *cycle, *typed, "--trainer.log_every_n_steps", "1")
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    expected = []
    for _ in range(14):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert column("lr") == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_cyclic_schedule_is_stepped_after_each_batch(kindling: Command) -> None:
    cycle = "--model.lr_scheduler CyclicLR --model.lr_scheduler.base_lr 0.001 --model.lr_scheduler.max_lr 0.1".split()
    cycle += "--model.lr_scheduler.step_size_up 4 --model.optimizer SGD --model.optimizer.lr 0.1".split()
    kindling("fit", *TINY, *cycle, "--model.optimizer.momentum", "0.9", "--trainer.log_every_n_steps", "1")
    assert column("lr") == pytest.approx([0.001 + 0.099 * (4 - abs(step % 8 - 4)) / 4 for step in range(14)])


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("rare", "every"),
    [
        ("--trainer.check_val_every_n_epoch 2", 2),
        ("--trainer.check_val_every_n_epoch null --trainer.val_check_interval 7", 1),
    ],
)
def test_schedules_work_with_rare_validation(kindling: Command, rare: str, every: int) -> None:
    """ReduceLROnPlateau counts validations; other schedules count epochs."""
    plateau = (
        "--model.lr_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau --model.lr_scheduler.patience 0 "
        "--model.lr_scheduler.threshold 10 --model.lr_scheduler.threshold_mode abs --early_stopping.patience null"
    )
    rates = epoch_rates(kindling, *plateau.split(), *rare.split(), epochs=6)
    validations = [epoch // every for epoch in range(6)]  # before each epoch; the first counts as best
    assert rates == pytest.approx([1e-3 * 0.1 ** max(0, number - 1) for number in validations], rel=1e-5)
    decay = "--model.lr_scheduler ExponentialLR --model.lr_scheduler.gamma 0.5 --run_name other"
    kindling("fit", *TINY, *decay.split(), *rare.split(), "--trainer.log_every_n_steps", "1")
    rates = column("lr", Path("runs/other/version_0"))
    assert rates == pytest.approx([1e-3] * 7 + [5e-4] * 7, rel=1e-5)


def test_gradients_are_clipped_to_the_norm(kindling: Command) -> None:
    class Norms(Callback):
        def __init__(self) -> None:
            self.before: list[float] = []
            self.after: list[float] = []

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
            self.before.append(norm(pl_module))

        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
            self.after.append(norm(pl_module))

    def norm(model: nn.Module) -> float:
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        return torch.cat(gradients).norm().item() if gradients else 0.0

    norms = Norms()
    data = SyntheticDataModule(num_samples=300)
    quick_trainer(gradient_clip_val=0.1, callbacks=[norms]).fit(MLPClassifier.for_data(data), data)
    assert min(norms.before) > 0.1
    assert norms.after[1:] == pytest.approx([0.1] * (len(norms.after) - 1), rel=1e-3)


def test_mixed_precision_computes_in_bfloat16() -> None:
    kinds = []
    data = SyntheticDataModule(num_samples=300)
    model = MLPClassifier.for_data(data)
    model.network[1].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))  # type: ignore[index]
    quick_trainer(precision="bf16-mixed").fit(model, data)
    assert set(kinds) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(data.val.inputs).dtype == torch.float32


@pytest.mark.slow
def test_numbers_are_tested_and_predicted_as_they_are(kindling: Command) -> None:
    few = "--trainer.max_epochs 1 --run_name tiny".split()
    result = kindling("fit", "--model", "helpers.SumRegressor", "--data", "helpers.SumDataModule", *few)
    assert result.code == 0, result.err
    data, model = SumDataModule(), SumRegressor.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    data.setup("test")
    with torch.no_grad():
        expected = pytest.approx(model.eval()(data.test.inputs).tolist(), rel=1e-4, abs=1e-5)
    assert column("prediction", file="predictions.csv") == expected
    assert kindling("predict", "--ckpt_path", "best").code == 0
    assert column("prediction", file="predictions.csv") == expected


def test_compiling_keeps_the_names_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = MLPClassifier(**MNIST, compile=True)
    model.setup("test")
    MLPClassifier(**MNIST).setup("fit")
    assert compiled == []
    model.setup("fit")
    assert compiled == [model.network]
    assert model.state_dict().keys() == MLPClassifier(**MNIST).state_dict().keys()


def test_a_checkpoint_from_a_notebook_holds_plain_values_and_needs_nothing_else(folder: Path) -> None:
    data = SyntheticDataModule(num_samples=300)
    model = MLPClassifier.for_data(
        data,
        hidden=(5,),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2),
    )
    trainer = quick_trainer()
    trainer.fit(model, data)
    trainer.save_checkpoint("notebook.ckpt")
    stored = torch.load("notebook.ckpt", weights_only=True)["hyper_parameters"]
    assert stored["optimizer"]["class_path"] == "torch.optim.sgd.SGD"
    assert stored["optimizer"]["init_args"].items() >= {"lr": 0.1, "momentum": 0}.items()
    again = MLPClassifier.load_from_checkpoint("notebook.ckpt")
    assert torch.equal(again(data.val.inputs), model(data.val.inputs))
    assert again.class_names == ("0", "1", "2")
    assert again.hparams["optimizer"]["init_args"]["lr"] == 0.1
    assert again.hparams["lr_scheduler"]["init_args"]["step_size"] == 2


def test_a_checkpoint_from_the_command_line_needs_nothing_else(trained: Train) -> None:
    trained(*TINY)
    model = MLPClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    assert model.network[1].out_features == 8  # type: ignore[index]
    assert model.class_names == ("0", "1", "2")


def test_hyperparameters_that_a_checkpoint_cannot_store_are_refused() -> None:
    with pytest.raises(ValueError, match=r"functools\.partial"):
        MLPClassifier(**MNIST, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))


@pytest.mark.parametrize("arguments", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"warmup_epochs": -1}])
def test_ranges_are_checked(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MLPClassifier(**MNIST, **arguments)  # type: ignore[arg-type]


class WideClassifier(ClassificationTask):
    """A custom model as shown in the README."""

    def __init__(self, width: int = 64, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.network = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, self.num_classes))


def test_a_custom_model_trains_and_loads(kindling: Command) -> None:
    result = kindling("fit", *TINY[4:], "--model", f"{__name__}.WideClassifier", "--model.width", "7")
    assert result.code == 0, result.err
    again = WideClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    assert again.network[1].out_features == 7  # type: ignore[index]
    assert kindling("test", "--ckpt_path", "best").code == 0


FOLLOWER = """
from torch.optim.lr_scheduler import LRScheduler

class Follower(LRScheduler):
    def __init__(self, optimizer, factor: float = 2.0):
        self.factor, self.metrics = factor, []
        super().__init__(optimizer)

    def step(self, metrics=None, epoch=None):
        if metrics is not None:
            self.metrics.append(float(metrics))
            for group in self.optimizer.param_groups:
                group["lr"] *= self.factor
"""


@pytest.mark.slow
def test_a_custom_schedule_gets_the_validation_loss(kindling: Command) -> None:
    Path("follower.py").write_text(FOLLOWER)
    schedule = ["--plugin", "follower.py", "--model.lr_scheduler", "follower.Follower", "--model.optimizer.lr", "0.001"]
    result = kindling("fit", *TINY, *schedule)
    assert result.code == 0, result.err
    stored = torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)
    logged = pd.read_csv("runs/tiny/version_0/metrics.csv")["val/loss"].dropna().tolist()
    assert stored["lr_schedulers"][0]["metrics"] == pytest.approx(logged)
    assert stored["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.004)


@pytest.mark.parametrize("prefix", ["", "_metric_modules."])
def test_metrics_of_earlier_versions_are_restored(prefix: str) -> None:
    """They stored a confusion matrix, whose last row and column are for predictions that are NaN."""
    predictions, labels = torch.tensor([0, 1, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 2, 2, 0])
    matrix = torch.zeros(4, 4, dtype=torch.long)
    matrix.index_put_((labels, predictions), torch.tensor(1), accumulate=True)
    model, expected = MLPClassifier(input_shape=(2,), num_classes=3), Accuracy(3)
    model.setup("validate")
    for _ in range(2):
        expected.update(nn.functional.one_hot(predictions, 3).float(), labels)
    restore_metrics(model, [{f"{prefix}train_metrics.accuracy": {"confmat": matrix}}] * 2)
    restored = cast(Accuracy, model.get_submodule("_metric_modules.train_metrics.accuracy"))
    assert torch.equal(restored.counts, expected.counts)
    assert expected.compute() == 4 / 6


def test_automatic_blocks_leave_2_to_5_pixels() -> None:
    left = set()
    for side in (*range(28, 224, 5), 55, 56, 111, 112):  # where the stride changes
        channels, stride = automatic_blocks(side)
        with torch.device("meta"):
            layers = cnn((1, side, side), channels, 8, 2, 0.0, True, stride, averaged=True)
        (pooling,) = [place for place, layer in enumerate(layers) if isinstance(layer, nn.AdaptiveAvgPool2d)]
        left |= {*layers[:pooling](torch.empty(2, 1, side, side, device="meta")).shape[2:]}
    assert left == {2, 3, 4, 5}


def test_automatic_blocks_choose_the_stride() -> None:
    with pytest.raises(ValueError, match=r"leave out --model\.strided_stem"):
        CNNClassifier(input_shape=(3, 28, 28), num_classes=2, channels="auto", strided_stem=True)


def test_a_training_loss_counts_all_samples_of_a_batch_whatever_the_metrics_get() -> None:
    class Selective(MLPClassifier):
        def metrics(self) -> MetricCollection:
            return MetricCollection({})

        def metric_targets(self, targets: Any) -> Any:
            return targets[:1]

    model = Selective(num_classes=2, input_shape=(3,))
    for samples, loss in ((8, 1.0), (2, 6.0)):
        model.update_metrics("train", torch.tensor(loss), torch.zeros(samples, 2), torch.zeros(samples).long())
    assert model.stage_metrics("train")[0].compute() == 2.0
