"""A backbone that is frozen, then trained: trained weights, learning rates and resuming in both phases."""

import csv
import shutil
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import OneCycleLR
from torchvision import models

from conftest import SHUFFLENET, TRANSFER, Command, different, weights
from kindling import DigitsDataModule, MNISTDataModule, TransferClassifier
from ranks import Ranks

PARAMETERS = len(list(models.shufflenet_v2_x0_5().parameters())) - 2  # of the backbone
ONE_CYCLE = ["--model.lr_scheduler", "OneCycle", "--model.optimizer.lr", "0.01"]
STEPS = ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "1", "--model.warmup_epochs", "0.7"]
PLATEAU = [
    *("--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
    *("--model.lr_scheduler.patience", "0", "--model.lr_scheduler.threshold", "10"),
    *("--model.lr_scheduler.threshold_mode", "abs"),
]
FEW: dict[str, Any] = {"shots": 10, "batch_size": 20, "val_split": 0.2}  # four steps an epoch
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
RUN = Path("runs/tiny/version_0")


def stored(run: Path = RUN, name: str = "last") -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    return checkpoint


def rates(run: Path = RUN) -> list[float]:
    """Return the learning rate of the head in each step."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["lr/head"]) for row in csv.DictReader(file) if row["lr/head"]]


def stop_at(step: int) -> list[object]:
    return ["--trainer.callbacks", "helpers.SignalAt", "--trainer.callbacks.step", step]


class Watch(Callback):
    """Records the parameters in the optimizer, and whether the backbone is trained, in each epoch."""

    def __init__(self) -> None:
        self.groups: list[list[tuple[int, float]]] = []
        self.trainable: list[bool] = []
        self.backbones: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TransferClassifier)
        groups = trainer.optimizers[0].param_groups
        self.groups.append([(len(group["params"]), group.get("lr_scale", 1.0)) for group in groups])
        self.trainable.append(all(parameter.requires_grad for group in groups for parameter in group["params"]))
        state = pl_module.backbone.state_dict()
        self.backbones.append({name: tensor.clone() for name, tensor in state.items()})


def watched(model: TransferClassifier, epochs: int = 3, **options: Any) -> Watch:
    watch = Watch()
    data = DigitsDataModule(shots=10, batch_size=20, val_split=0.2)
    Trainer(max_epochs=epochs, callbacks=[watch], **QUIET, **options).fit(model, data)
    return watch


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("cache_features", [True, False])
def test_a_frozen_backbone_keeps_weights_and_statistics_until_it_is_unfrozen(
    cached: Path, cache_features: bool
) -> None:
    data = DigitsDataModule()
    model = TransferClassifier.for_data(data, backbone=SHUFFLENET, unfreeze_epoch=2, cache_features=cache_features)
    watch = watched(model)
    start = torch.load(cached, weights_only=True)
    assert equal(watch.backbones[1], start)  # running means of batch norm among them
    assert not equal(watch.backbones[2], start)
    assert not torch.equal(watch.backbones[2]["conv1.1.running_mean"], start["conv1.1.running_mean"])
    assert watch.groups == [[(2, 1.0)], [(2, 1.0)], [(2, 1.0), (PARAMETERS, 0.1)]]
    assert all(watch.trainable)


def test_a_backbone_is_trained_from_the_start_or_never(cached: Path) -> None:
    data, start = DigitsDataModule(), torch.load(cached, weights_only=True)
    never = watched(TransferClassifier.for_data(data, backbone=SHUFFLENET, unfreeze_epoch=None), epochs=2)
    assert equal(never.backbones[1], start)
    at_once = watched(TransferClassifier.for_data(data, backbone=SHUFFLENET, unfreeze_epoch=0), epochs=1)
    assert not equal(at_once.backbones[0], start)


def test_the_learning_rate_of_the_backbone_is_a_share_of_the_heads(cached: Path) -> None:
    """One step of plain SGD moves each weight by its rate times its gradient."""
    data = DigitsDataModule()
    model = TransferClassifier.for_data(
        data, backbone=SHUFFLENET, unfreeze_epoch=0, backbone_lr=0.25, optimizer=partial(torch.optim.SGD, lr=0.1)
    )
    model.init_lazy_layers()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    class Gradients(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
            named = pl_module.named_parameters()
            self.kept = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}

    gradients = Gradients()
    Trainer(max_steps=1, callbacks=[gradients], **QUIET).fit(model, DigitsDataModule(shots=10, val_split=0.2))
    for name, rate in (("network.head.weight", 0.1), ("network.backbone.conv1.0.weight", 0.025)):
        after = dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(after, before[name] - rate * gradients.kept[name], rtol=1e-4, atol=1e-7)


def test_random_weights_train_all_of_the_network_alike() -> None:
    watch = watched(TransferClassifier.for_data(DigitsDataModule(), backbone=SHUFFLENET, weights="none"), epochs=1)
    assert watch.groups == [[(2, 1.0), (PARAMETERS, 1.0)]]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [ONE_CYCLE, STEPS, PLATEAU], ids=["cycle", "steps", "plateau"])
def test_an_interrupted_two_phase_run_resumes_to_identical_weights(
    kindling: Command, cached: Path, schedule: list[str]
) -> None:
    """Stopped while the backbone is frozen, when it is unfrozen, after its first step, and later."""
    options = [*TRANSFER, *schedule, "--model.unfreeze_epoch", "1"]
    assert kindling(*options).code == 0
    for number, step in enumerate((2, 3, 4, 9), start=1):
        assert kindling(*options, *stop_at(step)).code == 1
        run = Path(f"runs/tiny/version_{number}")
        assert stored(run)["global_step"] == step + 1
        assert kindling("fit", "--ckpt_path", "last", "--trainer.callbacks", "null").code == 0
        assert different(RUN / "checkpoints/last.ckpt", run / "checkpoints/last.ckpt") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "lengths"),  # of the last schedule, where the rate is another, the epoch, the number of epochs
    [(2, (8, 12, 12)), (7, (8, 8, 12)), (9, (6, 8, 10))],
    ids=["frozen", "where it is unfrozen", "unfrozen"],
)
def test_changes_at_a_phase_boundary_update_the_schedule(
    kindling: Command, cached: Path, step: int, lengths: tuple[int, ...]
) -> None:
    longer = ["--model.unfreeze_epoch", "2", "--trainer.max_epochs", "4"]
    assert kindling(*TRANSFER, *ONE_CYCLE, *longer, *stop_at(step)).code == 1
    shutil.copytree(RUN, "stopped")
    changes = (
        ["--model.optimizer.lr", "0.003"],
        ["--model.unfreeze_epoch", "1"],
        ["--trainer.max_epochs", "5"],
    )
    for change, length in zip(changes, lengths, strict=True):
        shutil.rmtree(RUN)
        shutil.copytree("stopped", RUN)
        result = kindling("fit", "--ckpt_path", RUN, "--trainer.callbacks", "null", *change)
        assert result.code == 0, result.err
        (schedule,) = stored()["lr_schedulers"]
        assert (schedule["total_steps"], schedule["last_epoch"], stored()["frozen"]) == (length, length, False)
        ignored = "unfreeze_epoch 1 has no effect: the backbone is being trained already"
        assert (ignored in result.err) == (step == 9 and "--model.unfreeze_epoch" in change)


@pytest.mark.slow
def test_a_run_starts_from_the_best_frozen_checkpoint_with_another_rate(kindling: Command, cached: Path) -> None:
    """The checkpoint is saved before the end of the epoch after which the backbone is unfrozen."""
    assert kindling(*TRANSFER, *ONE_CYCLE, "--trainer.max_epochs", "1").code == 0
    best = RUN / "checkpoints/best.ckpt"
    more = ["--trainer.max_epochs", "3", "--model.optimizer.lr", "0.003", "--run_name", "more"]
    result = kindling("fit", "--ckpt_path", best, *more)
    assert result.code == 0, result.err
    after = stored(Path("runs/more/version_0"))
    assert (after["lr_schedulers"][0]["total_steps"], after["frozen"]) == (8, False)


@pytest.mark.slow
def test_each_phase_has_a_schedule_of_its_own(kindling: Command, cached: Path) -> None:
    kindling(*TRANSFER, *ONE_CYCLE, "--trainer.log_every_n_steps", "1")
    expected = []
    for steps in (4, 8):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        for _ in range(steps):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    assert rates() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_each_phase_warms_up(kindling: Command, cached: Path) -> None:
    kindling(*TRANSFER, "--model.warmup_epochs", "0.5", "--trainer.log_every_n_steps", "1")
    assert rates() == pytest.approx([5e-4, *[1e-3] * 3, 5e-4, *[1e-3] * 7])


@pytest.mark.slow
def test_the_momentum_of_the_head_is_kept(kindling: Command, cached: Path) -> None:
    kindling(*TRANSFER)
    state = stored()["optimizer_states"][0]["state"]
    assert [int(state[number]["step"]) for number in (0, 1, 2)] == [12, 12, 8]  # weight, bias, backbone


@pytest.mark.slow
def test_steps_may_be_given_in_place_of_epochs(kindling: Command, cached: Path) -> None:
    result = kindling(*TRANSFER, *ONE_CYCLE, "--trainer.max_epochs", "-1", "--trainer.max_steps", "10")
    assert result.code == 0, result.err
    assert stored()["lr_schedulers"][0]["total_steps"] == 6


@pytest.mark.slow
def test_a_typed_rate_of_the_backbone_wins_over_the_checkpoint(kindling: Command, cached: Path) -> None:
    kindling(*TRANSFER)
    assert kindling("fit", "--ckpt_path", "last", "--model.backbone_lr", "0.5", "--trainer.max_epochs", "4").code == 0
    assert [group.get("lr_scale") for group in stored()["optimizer_states"][0]["param_groups"]] == [None, 0.5]


class Fail(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("simulated crash")


@pytest.mark.slow
def test_a_model_can_be_trained_again(cached: Path) -> None:
    """After a fit that failed with cached features, and after a complete one."""
    data = DigitsDataModule(**FEW)
    cycle: Any = partial(OneCycleLR, max_lr=0.01)
    model = TransferClassifier.for_data(data, backbone=SHUFFLENET, unfreeze_epoch=2, lr_scheduler=cycle)
    with pytest.raises(RuntimeError, match="simulated crash"):
        Trainer(max_epochs=3, callbacks=[Fail()], **QUIET).fit(model, data)
    for steps in (4, 12):  # of the second phase, and of a model that is unfrozen
        trainer = Trainer(max_epochs=3, **QUIET)
        trainer.fit(model, data)
        (config,) = trainer.lr_scheduler_configs
        assert (config.scheduler.total_steps, trainer.global_step) == (steps, 12)  # type: ignore[union-attr]


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("by_epoch", [True, False])
def test_early_stopping_waits_until_the_backbone_is_trained(cached: Path, patience: int, by_epoch: bool) -> None:
    data = DigitsDataModule(**FEW)
    model = TransferClassifier.for_data(data, backbone=SHUFFLENET, unfreeze_epoch=4)
    stopper = EarlyStopping("val/loss", min_delta=100, patience=patience, check_on_train_epoch_end=by_epoch)
    trainer = Trainer(max_epochs=12, callbacks=[stopper], **QUIET)
    trainer.fit(model, data)
    assert trainer.current_epoch == 4 + max(1, patience)


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """Record the number of images in each call of a ShuffleNet, except for the single one of the sanity check."""
    batches: list[int] = []

    def count(module: object, inputs: tuple[torch.Tensor], output: object) -> None:
        if isinstance(module, models.ShuffleNetV2) and len(inputs[0]) > 1:
            batches.append(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    yield batches
    hook.remove()


def test_cached_features_change_nothing_but_the_time(kindling: Command, cached: Path, asked: list[int]) -> None:
    quiet = ["--trainer.logger", "false"]  # for TensorBoard's graph the network is asked once more
    frozen = [*TRANSFER, *quiet, "--model.unfreeze_epoch", "null", "--data.eval_batch_size", "50"]
    result = kindling(*frozen, "--model.cache_features", "true")
    assert result.err.count("computing the features of 100 images once") == 1
    assert asked == [50, 30, 20]  # 80 for training and 20 for validation
    asked.clear()
    assert kindling(*frozen, "--model.cache_features", "false").code == 0
    assert sum(asked) == 300
    ours, theirs = (weights(f"runs/tiny/version_{number}/checkpoints/last.ckpt") for number in (0, 1))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("options", "images"),
    [
        ("--model.unfreeze_epoch 1", 300),
        ("--model.unfreeze_epoch null --trainer.max_epochs 1", 100),
        ("--model.unfreeze_epoch null --trainer.limit_train_batches 1", 3 * 40),
        ("--model.unfreeze_epoch null --trainer.limit_val_batches 1 --data.eval_batch_size 10", 3 * 90),
        ("--model.unfreeze_epoch null --trainer.fast_dev_run 1", 20 + 20),
        ("--model.unfreeze_epoch null --trainer.overfit_batches 1", 3 * 20 + 3 * 20),
    ],
)
def test_features_are_cached_only_where_that_saves_something(
    kindling: Command, cached: Path, asked: list[int], options: str, images: int
) -> None:
    result = kindling(*TRANSFER, "--trainer.logger", "false", *options.split())
    assert result.code == 0, result.err
    assert "computed once" not in result.err
    assert sum(asked) == images


class Seconds(Callback):
    """Records the duration of each epoch, including validation."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(time.perf_counter())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(time.perf_counter() - self.epochs.pop())


@pytest.mark.alone
def test_epochs_are_ten_times_as_fast_with_cached_features(no_network: None) -> None:
    torch.save(models.resnet18().state_dict(), "resnet18.pt")

    def seconds(cache_features: bool) -> float:
        """Return the duration of the epochs from the second on."""
        data = DigitsDataModule(shots=30, val_split=0.2)
        model = TransferClassifier.for_data(
            data, weights="resnet18.pt", image_size=64, unfreeze_epoch=None, cache_features=cache_features
        )
        watch = Seconds()
        Trainer(max_epochs=3, callbacks=[watch], **QUIET).fit(model, data)
        return statistics.median(watch.epochs[1:])

    assert seconds(False) / seconds(True) >= 10  # 35 to 120


def test_augmented_images_are_not_cached(cached: Path) -> None:
    data = MNISTDataModule("sample", degrees=10)
    model = TransferClassifier.for_data(data, backbone=SHUFFLENET, unfreeze_epoch=None)
    trainer = Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, **QUIET)
    trainer.fit(model, data)
    assert trainer.train_dataloader is not None
    assert trainer.train_dataloader.dataset.inputs.ndim == 4


def test_a_strategy_that_cannot_unfreeze_a_backbone_is_refused(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DigitsDataModule(**FEW)
    model = TransferClassifier.for_data(data, backbone=SHUFFLENET, unfreeze_epoch=1)
    monkeypatch.setattr(Trainer, "world_size", 2)
    with pytest.raises(ValueError, match=r"SingleDeviceStrategy can't unfreeze .*--trainer.strategy ddp"):
        Trainer(max_epochs=2, **QUIET).fit(model, data)


@pytest.mark.slow
def test_several_processes_continue_with_one_backbone(kindling: Command, cached: Path) -> None:
    """Two processes over gloo: from a frozen backbone that is trained now, then from a trained one."""
    assert kindling(*TRANSFER, "--model.unfreeze_epoch", "null", "--trainer.max_epochs", "1").code == 0
    before = weights(RUN / "checkpoints/last.ckpt")
    for unfreeze_epoch, epochs in ((0, 2), (5, 3)):
        options = ["--model.unfreeze_epoch", unfreeze_epoch, "--trainer.max_epochs", epochs]
        results = Ranks("fit", "--ckpt_path", RUN, *options, "--trainer.callbacks", "helpers.CheckSameWeights").wait()
        assert [result.code for result in results] == [0, 0], results[0].err
        assert results[0].out.count("identical weights in 2 processes") == 1
        after = weights(RUN / "checkpoints/last.ckpt")
        assert not torch.equal(after["network.backbone.conv1.0.weight"], before["network.backbone.conv1.0.weight"])
        before = after
