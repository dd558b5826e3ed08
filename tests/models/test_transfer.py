import shutil
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F
from torchvision import models

from conftest import Command, different, weights
from kindling import CNNClassifier, DigitsDataModule, MNISTDataModule, TransferClassifier
from kindling.models.backbones import torchvision_names
from kindling.models.transfer import Adapt

SMALL = "shufflenet_v2_x0_5"
FILE = "shufflenetv2_x0.5-f707e7126e.pth"  # of torchvision's weights
FIT = (
    "fit --model TransferClassifier --model.backbone shufflenet_v2_x0_5 --data DigitsDataModule --data.shots 10 "
    "--data.batch_size 20 --data.val_split 0.2 --run_name tiny --trainer.max_epochs 3 --test_after_fit false"
).split()
PARAMETERS = len(list(models.shufflenet_v2_x0_5().parameters())) - 2  # of the backbone
ONE_CYCLE = ["--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", "0.01"]
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
RUN = Path("runs/tiny/version_0")


def smallest_of_each_family() -> list[str]:
    families: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in torchvision_names():
        size = models.get_model_weights(name).DEFAULT.meta["num_params"]
        families[sys.modules[models.get_model_builder(name).__module__].__name__].append((size, name))
    return sorted(min(members)[1] for members in families.values())


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def cached(no_network: None, tmp_path: Path) -> Path:
    """Weights of a ShuffleNet where torch keeps them after a download."""
    file = tmp_path / "torch" / "hub" / "checkpoints" / FILE
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(models.shufflenet_v2_x0_5().state_dict(), file)
    return file


def images(**options: Any) -> dict[str, Any]:
    return {"num_classes": 3, "input_shape": (1, 28, 28)} | options


@pytest.mark.parametrize("name", smallest_of_each_family())
def test_every_family_of_torchvision_takes_a_step_at_its_smallest_size(name: str) -> None:
    model = TransferClassifier(name, weights="none", **images(input_shape=(1, 1, 1)))
    assert model.source.size == tuple(models.get_model_weights(name).DEFAULT.meta["min_size"])
    loss = model.training_step((torch.rand(2, 1, 1, 1), torch.tensor([0, 2])), 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_torchvision_names_are_those_of_classification() -> None:
    assert {"resnet18", "vit_b_16", "swin_t", "convnext_tiny"} <= set(torchvision_names())
    assert not {"fcn_resnet50", "raft_small", "r3d_18"} & set(torchvision_names())


def test_weights_come_from_torchs_cache(cached: Path) -> None:
    model = TransferClassifier(SMALL, **images())
    inputs = torch.rand(2, 1, 28, 28)
    reference = models.shufflenet_v2_x0_5()
    reference.load_state_dict(torch.load(cached, weights_only=True))
    reference.fc = torch.nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (inputs.expand(-1, 3, -1, -1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        logits = model.eval()(inputs)
        expected = model.head(reference.eval()(normalised))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_weights_come_from_a_file(cached: Path) -> None:
    state = torch.load(cached, weights_only=True)
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, "mine.pt")
    cached.unlink()
    model = TransferClassifier(SMALL, "mine.pt", **images())
    model.materialize()
    assert torch.equal(model.backbone.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_weights_that_are_not_there_are_named_with_the_place_for_them(kindling: Command, no_network: None) -> None:
    result = kindling(*FIT)
    assert (result.code, result.err.count("\n")) == (1, 1)
    for words in ("torch/hub/checkpoints/" + FILE, "https://download.pytorch.org/models/", "--model.weights none"):
        assert words in result.err
    assert not Path("runs").exists()


def test_no_network_is_random_unless_told_to_be(no_network: None) -> None:
    model = TransferClassifier(SMALL, **images())
    with pytest.raises(OSError, match="are not there"):
        model(torch.rand(1, 1, 28, 28))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.backbone", "resnet19"], "there is no backbone resnet19: did you mean resnet1"),
        (["--model.backbone", "runs/nowhere"], "there is no backbone runs/nowhere: name a network"),
        (["--model.weights", "IMAGENET"], f"{SMALL} has no weights IMAGENET: there are IMAGENET1K_V1, DEFAULT, none"),
        (["--model.weights", "broken.pt"], "broken.pt holds no weights"),
        (["--model.weights", "other.pt"], "other.pt holds no weights of shufflenet_v2_x0_5"),
        (["--data", "SyntheticDataModule"], "TransferClassifier needs images"),
        (["--model.unfreeze_epoch", "-1"], "unfreeze_epoch must not be negative: -1"),
    ],
)
def test_mistakes_are_said_in_one_line(kindling: Command, options: list[str], message: str) -> None:
    Path("broken.pt").write_text("nothing")
    torch.save({"conv1.0.weight": torch.zeros(3)}, "other.pt")
    common = FIT[: FIT.index("--data")] if options[0] == "--data" else FIT
    result = kindling(*common, *options)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert message in result.err


def test_a_damaged_file_in_the_cache_is_named(kindling: Command, cached: Path) -> None:
    cached.write_bytes(cached.read_bytes()[:1000])
    result = kindling(*FIT)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{cached} is damaged" in result.err


def test_what_was_trained_needs_no_weights_from_elsewhere(kindling: Command, cached: Path) -> None:
    assert kindling(*FIT).code == 0
    cached.unlink()
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "4").code == 0
    model = TransferClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


class Watch(Callback):
    """Notes what the optimizer holds and whether the backbone learns, epoch by epoch."""

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


@pytest.mark.parametrize("cache_features", [True, False])
def test_a_frozen_backbone_keeps_weights_and_statistics_until_it_is_unfrozen(
    cached: Path, cache_features: bool
) -> None:
    data = DigitsDataModule()
    model = TransferClassifier.for_data(data, backbone=SMALL, unfreeze_epoch=2, cache_features=cache_features)
    watch = watched(model)
    start = torch.load(cached, weights_only=True)
    assert equal(watch.backbones[1], start)  # running means of batch norm among them
    assert not equal(watch.backbones[2], start)
    assert not torch.equal(watch.backbones[2]["conv1.1.running_mean"], start["conv1.1.running_mean"])
    assert watch.groups == [[(2, 1.0)], [(2, 1.0)], [(2, 1.0), (PARAMETERS, 0.1)]]
    assert all(watch.trainable)


def test_a_backbone_is_trained_from_the_start_or_never(cached: Path) -> None:
    data, start = DigitsDataModule(), torch.load(cached, weights_only=True)
    never = watched(TransferClassifier.for_data(data, backbone=SMALL, unfreeze_epoch=None), epochs=2)
    assert equal(never.backbones[1], start)
    at_once = watched(TransferClassifier.for_data(data, backbone=SMALL, unfreeze_epoch=0), epochs=1)
    assert not equal(at_once.backbones[0], start)


def test_the_learning_rate_of_the_backbone_is_a_share_of_the_heads(cached: Path) -> None:
    """One step of plain SGD moves each weight by its rate times its gradient."""
    data = DigitsDataModule()
    model = TransferClassifier.for_data(
        data, backbone=SMALL, unfreeze_epoch=0, backbone_lr=0.25, optimizer=partial(torch.optim.SGD, lr=0.1)
    )
    model.materialize()
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


@pytest.mark.parametrize(
    "schedule", [[], ["--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", "0.01"]]
)
@pytest.mark.parametrize("step", [2, 6, 9])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    kindling: Command, cached: Path, schedule: list[str], step: int
) -> None:
    """Four steps an epoch: stopped while the backbone is frozen, and in two epochs in which it is trained."""
    options = [*FIT, *schedule, "--model.unfreeze_epoch", "1"]
    assert kindling(*options).code == 0
    interrupted = kindling(*options, "--trainer.callbacks", "helpers.SignalAt", "--trainer.callbacks.step", step)
    assert interrupted.code == 1
    assert kindling("fit", "--ckpt_path", "last").code == 0
    assert different(RUN / "checkpoints/last.ckpt", "runs/tiny/version_1/checkpoints/last.ckpt") == []


def test_each_phase_has_a_schedule_of_its_own(kindling: Command, cached: Path) -> None:
    kindling(*FIT, *ONE_CYCLE, "--model.unfreeze_epoch", "1")
    stored = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    (state,) = stored["lr_schedulers"]
    assert (state["total_steps"], state["last_epoch"]) == (8, 8)


def test_cached_features_change_nothing_but_the_time(kindling: Command, cached: Path) -> None:
    frozen = [*FIT, "--model.unfreeze_epoch", "null"]
    asked = []

    def count(module: object, inputs: tuple[torch.Tensor], output: object) -> None:
        if isinstance(module, models.ShuffleNetV2):
            asked.append(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        assert kindling(*frozen, "--model.cache_features", "true").code == 0
        assert sum(asked) == 100  # 80 for training and 20 for validation, once
        asked.clear()
        assert kindling(*frozen, "--model.cache_features", "false").code == 0
        assert sum(asked) == 300
    finally:
        hook.remove()
    ours, theirs = (weights(f"runs/tiny/version_{number}/checkpoints/last.ckpt") for number in (0, 1))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_augmented_images_are_not_cached(cached: Path) -> None:
    data = MNISTDataModule("sample", degrees=10)
    model = TransferClassifier.for_data(data, backbone=SMALL, unfreeze_epoch=None)
    trainer = Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, **QUIET)
    trainer.fit(model, data)
    assert trainer.train_dataloader is not None
    assert trainer.train_dataloader.dataset.inputs.ndim == 4


def test_a_network_that_was_trained_here_is_a_backbone(kindling: Command) -> None:
    train = "fit --model CNNClassifier --model.channels [4,8] --data MNISTDataModule --data.source sample".split()
    few = ["--trainer.limit_train_batches", "5", "--trainer.max_epochs", "1", "--test_after_fit", "false"]
    assert kindling(*train, *few, "--run_name", "base").code == 0
    options = [*FIT, "--model.backbone", "runs/base", "--model.unfreeze_epoch", "null"]
    assert kindling(*options).code == 0
    base = CNNClassifier.load_from_checkpoint("runs/base/version_0/checkpoints/best.ckpt").eval()
    shutil.rmtree("runs/base")
    model = TransferClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt").eval()
    digits = torch.rand(3, 1, 8, 8)
    larger = F.interpolate(digits, (28, 28), mode="bilinear", antialias=True)
    with torch.no_grad():
        features = base.network[:-1](  # type: ignore[index]
            (larger - base.mean) / base.std
        )
        torch.testing.assert_close(model.features(digits), features, rtol=1e-4, atol=1e-5)
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "4").code == 0
    # And what was transferred is a backbone again.
    assert kindling(*options, "--model.backbone", RUN, "--run_name", "again").code == 0


def test_random_weights_train_all_of_the_network_alike() -> None:
    watch = watched(TransferClassifier.for_data(DigitsDataModule(), backbone=SMALL, weights="none"), epochs=1)
    assert watch.groups == [[(2, 1.0), (PARAMETERS, 1.0)]]


@pytest.mark.parametrize(("channels", "takes"), [(1, 3), (3, 1), (3, 3)])
def test_images_are_recoloured_and_resized(channels: int, takes: int) -> None:
    images = torch.rand(2, channels, 5, 7)
    adapted = Adapt(takes, (10, 14))(images)
    if (channels, takes) == (3, 1):
        images = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    expected = F.interpolate(images.repeat(1, takes // images.shape[1], 1, 1), (10, 14), mode="bilinear")
    torch.testing.assert_close(adapted, expected)


def test_several_processes_do_not_unfreeze_on_the_way(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TransferClassifier.for_data(DigitsDataModule(), backbone=SMALL, unfreeze_epoch=1)
    monkeypatch.setattr(Trainer, "world_size", 2)
    model.trainer = Trainer(**QUIET)
    with pytest.raises(ValueError, match="several devices"):
        model.setup("fit")
