import copy
import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import models
from torchvision.transforms.functional import rgb_to_grayscale

from conftest import SHUFFLENET, TINY, TRANSFER, Command, Train
from kindling import CNNClassifier, TransferClassifier
from kindling.models.backbone_network import InputAdapter
from kindling.models.backbones import torchvision_names

FILE = "shufflenetv2_x0.5-f707e7126e.pth"  # of torchvision's weights
RUN = Path("runs/tiny/version_0")


def smallest_of_each_family() -> list[str]:
    families: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in torchvision_names():
        size = models.get_model_weights(name).DEFAULT.meta["num_params"]
        families[sys.modules[models.get_model_builder(name).__module__].__name__].append((size, name))
    return sorted(min(members)[1] for members in families.values())


def images(**options: Any) -> dict[str, Any]:
    return {"num_classes": 3, "input_shape": (1, 28, 28)} | options


def weights_of_its_own(name: str) -> dict[str, torch.Tensor]:
    """Return a state dict in torchvision's format, with auxiliary heads; constant tensors make a small file."""
    # Without memory for all the numbers; RegNet computes its widths with tensors.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        state: dict[str, torch.Tensor] = models.get_model(name, weights=None).state_dict()
    for number, (key, value) in enumerate(state.items()):
        state[key] = torch.tensor(1 / (number + 100)).to(value.dtype).expand(value.shape)
    return state


def as_in_2017(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the names of weights as in the file of a DenseNet."""
    old = {re.sub(r"(denselayer.*(?:norm|conv))([12])", r"\1.\2", key): value for key, value in state.items()}
    return {key: value for key, value in old.items() if "num_batches" not in key}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("densenet121", "shufflenet_v2_x0_5", "vit_b_32")))
        for name in smallest_of_each_family()
    ],
)
def test_every_family_of_torchvision_takes_its_weights_and_a_step_at_its_smallest_size(
    name: str, no_network: None
) -> None:
    model = TransferClassifier(name, unfreeze_epoch=0, **images(input_shape=(1, 1, 1)))
    default = models.get_model_weights(name).DEFAULT
    assert model.source.size == tuple(default.meta["min_size"])
    file = Path(torch.hub.get_dir(), "checkpoints", Path(default.url).name)
    file.parent.mkdir(parents=True)
    expected = weights_of_its_own(name)
    torch.save(as_in_2017(expected) if name.startswith("densenet") else expected, file)
    model.init_lazy_layers()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, expected[key]), key
    loss = model.training_step((torch.rand(2, 1, 1, 1), torch.tensor([0, 2])), 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_torchvision_names_are_those_of_classification() -> None:
    assert {"resnet18", "vit_b_16", "swin_t", "convnext_tiny"} <= set(torchvision_names())
    assert not {"fcn_resnet50", "raft_small", "r3d_18"} & set(torchvision_names())


def test_weights_come_from_torchs_cache(cached: Path) -> None:
    model = TransferClassifier(SHUFFLENET, **images())
    inputs = torch.rand(2, 1, 28, 28)
    reference = models.shufflenet_v2_x0_5()
    reference.load_state_dict(torch.load(cached, weights_only=True))
    reference.fc = torch.nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (inputs.expand(-1, 3, -1, -1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        logits = model.eval()(inputs)
        expected = model.head(reference.eval()(normalized))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def wrapped(state: dict[str, torch.Tensor]) -> dict[str, object]:
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}


@pytest.mark.parametrize("form", [dict, lambda state: {"model": state}, wrapped], ids=["plain", "model", "wrapped"])
def test_weights_come_from_a_file(cached: Path, form: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = torch.load(cached, weights_only=True)
    del state["fc.weight"], state["fc.bias"]
    torch.save(form(state), "mine.pt")
    cached.unlink()
    model = TransferClassifier(SHUFFLENET, "mine.pt", **images())
    model.init_lazy_layers()
    assert torch.equal(model.backbone.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_a_vision_transformer_of_another_size_takes_the_weights(no_network: None) -> None:
    """Its position embeddings are interpolated: values that increase from row to row still do."""
    state = weights_of_its_own("vit_b_16")
    rows = torch.arange(14.0).repeat_interleave(14)
    state["encoder.pos_embedding"] = torch.cat([torch.tensor([-1.0]), rows]).view(1, 197, 1).expand(1, 197, 768)
    torch.save(state, "mine.pt")
    model = TransferClassifier("vit_b_16", "mine.pt", image_size=48, **images())
    model.init_lazy_layers()
    positions = model.backbone.state_dict()["encoder.pos_embedding"][0, :, 0]
    assert positions.tolist() == pytest.approx([-1, *[0] * 3, *[6.5] * 3, *[13] * 3], abs=1e-4)


def test_weights_that_are_not_there_are_named_with_the_place_for_them(kindling: Command, no_network: None) -> None:
    result = kindling(*TRANSFER)
    assert (result.code, result.err.count("\n")) == (1, 1)
    for words in (
        f"save it as {Path('torch/hub/checkpoints').resolve() / FILE}, or ",
        f"https://download.pytorch.org/models/{FILE}",
        "--model.weights FILE, --model.weights none or --config images_cnn",
    ):
        assert words in result.err
    assert not Path("runs").exists()


def ask(model: TransferClassifier) -> object:
    return model(torch.rand(1, 1, 28, 28))


@pytest.mark.parametrize(
    "use",
    [ask, lambda model: model.features(torch.rand(1, 1, 28, 28)), TransferClassifier.state_dict, copy.deepcopy],
    ids=["forward", "features", "state dict", "copy"],
)
def test_weights_are_random_only_if_requested(cached: Path, use: Callable[[TransferClassifier], object]) -> None:
    model = TransferClassifier(SHUFFLENET, **images())
    expected = torch.load(cached, weights_only=True)["conv1.0.weight"]
    used = use(model)
    model = used if isinstance(used, TransferClassifier) else model
    if use is copy.deepcopy:
        ask(model)
    assert torch.equal(dict(model.named_parameters())["network.backbone.conv1.0.weight"], expected)
    cached.unlink()
    with pytest.raises(OSError, match=r"can't download .*: save it as"):
        ask(TransferClassifier(SHUFFLENET, **images()))


def test_weights_missing_in_a_state_dict_are_still_missing(cached: Path) -> None:
    """After loading a state dict without the backbone, or of another model, its weights are still missing."""
    model = TransferClassifier(SHUFFLENET, **images())
    head = {"network.head.bias": torch.ones(3)}
    model.load_state_dict(head, strict=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict({"network.backbone.conv1.0.weight": torch.zeros(1)}, strict=False)
    state = model.state_dict()
    expected = torch.load(cached, weights_only=True)["conv1.0.weight"]
    assert torch.equal(state["network.backbone.conv1.0.weight"], expected)
    assert torch.equal(state["network.head.bias"], head["network.head.bias"])


@pytest.mark.slow
def test_weights_come_with_those_of_a_whole(kindling: Command, cached: Path) -> None:
    """A model inside another module or an ensemble gets its weights from their state dict."""
    state = TransferClassifier(SHUFFLENET, **images()).state_dict()
    assert kindling(*TRANSFER).code == 0
    data = TRANSFER[TRANSFER.index("--data") : TRANSFER.index("--run_name")]
    together = ["fit", "--model", "EnsembleClassifier", "--model.checkpoints", "[runs/tiny]", *data]
    assert kindling(*together, "--run_name", "both", "--test_after_fit", "false").code == 0
    cached.unlink()
    whole = torch.nn.ModuleDict({"part": TransferClassifier(SHUFFLENET, **images())})
    whole.load_state_dict({f"part.{key}": value for key, value in state.items()})
    assert torch.equal(
        whole.state_dict()["part.network.backbone.conv5.0.weight"], state["network.backbone.conv5.0.weight"]
    )
    result = kindling("test", "--ckpt_path", "runs/both")
    assert result.code == 0, result.err


def test_a_model_trained_on_rows_cannot_be_a_backbone(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    result = kindling(*TRANSFER, "--model.backbone", "runs/tiny")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "runs/tiny can't be a backbone: MLPClassifier is not a single network for images" in result.err


@pytest.mark.quick_cases(2)
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.backbone", "resnet19"], "unknown backbone 'resnet19': did you mean resnet1"),
        (["--model.backbone", "runs/nowhere"], "backbone: there is no run runs/nowhere: kindling runs lists them"),
        (
            ["--model.backbone", "runs/started/version_1"],
            "did you mean runs/started/version_0?",
        ),
        (["--model.backbone", "runs/started"], "there is no best.ckpt under runs/started: train one with kindling fit"),
        (["--model.backbone", "runs/gone/last.ckpt"], "there is no checkpoint runs/gone/last.ckpt"),
        (["--model.backbone", "resnet1", "--model.image_size", "64"], "unknown backbone 'resnet1': did you mean"),
        (
            ["--model.weights", "IMAGENET"],
            f"{SHUFFLENET} has no weights IMAGENET: choose IMAGENET1K_V1, DEFAULT, none",
        ),
        (["--model.weights", "broken.pt"], "broken.pt contains no weights"),
        (["--model.weights", "other.pt"], "other.pt contains no weights of shufflenet_v2_x0_5"),
        (
            ["--model.weights", "fewer.pt"],
            "fewer.pt does not contain all weights of shufflenet_v2_x0_5: conv1.0.weight is missing",
        ),
        (["--model.weights", "list.pt"], "list.pt contains no weights: it is not a dictionary of tensors"),
        (["--model.weights", "gone.pt"], "there is no file gone.pt\n"),
        (["--model.image_size", "0"], f"image_size must be at least 1 for {SHUFFLENET}, got 0"),
        (["--model.image_size", "-8"], f"image_size must be at least 1 for {SHUFFLENET}, got -8"),
        (
            ["--model.backbone", "inception_v3", "--model.image_size", "64"],
            "image_size must be at least 75 for inception_v3, got 64",
        ),
        (
            ["--model.backbone", "vit_b_32", "--model.image_size", "100"],
            "image_size must be at least 32 and a multiple of 32 for vit_b_32, got 100",
        ),
        (
            ["--model.backbone", "maxvit_t", "--model.image_size", "256"],
            "image_size must be at least 224 and a multiple of 224 for maxvit_t, got 256",
        ),
        (["--model.backbone_lr", "-0.1"], "backbone_lr must not be negative, got -0.1"),
        (["--data", "SyntheticDataModule"], "TransferClassifier needs images"),
        (["--model.unfreeze_epoch", "-1"], "unfreeze_epoch must not be negative, got -1"),
    ],
)
def test_mistakes_are_said_in_one_line(kindling: Command, options: list[str], message: str) -> None:
    Path("broken.pt").write_text("nothing")
    torch.save({"conv1.0.weight": torch.zeros(3)}, "other.pt")
    torch.save({"conv7.weight": torch.zeros(3)}, "fewer.pt")
    torch.save([torch.zeros(3)], "list.pt")
    Path("runs/started/version_0").mkdir(parents=True)
    Path("runs/started/version_0/run.json").write_text("{}")
    common = TRANSFER[: TRANSFER.index("--data")] if options[0] == "--data" else TRANSFER
    result = kindling(*common, *options)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert message in result.err


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    "content", [b"", b"<!doctype html>", b"PK\x03\x04" + bytes(1000)], ids=["empty", "page", "cut"]
)
def test_a_damaged_file_in_the_cache_is_named(kindling: Command, cached: Path, content: bytes) -> None:
    cached.write_bytes(content)
    result = kindling(*TRANSFER)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{cached} is damaged" in result.err


@pytest.mark.slow
def test_what_was_trained_needs_no_weights_from_elsewhere(kindling: Command, cached: Path) -> None:
    assert kindling(*TRANSFER).code == 0
    cached.unlink()
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "4").code == 0
    model = TransferClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_weights_of_a_file_that_is_gone_are_in_the_checkpoint(kindling: Command, cached: Path) -> None:
    file = cached.rename("mine.pt")
    assert kindling(*TRANSFER, "--model.weights", file).code == 0
    file.unlink()
    for command in (["test"], ["fit", "--trainer.max_epochs", "4"]):
        result = kindling(*command, "--ckpt_path", "last")
        assert result.code == 0, result.err
    assert TransferClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt").hparams["weights"] == "mine.pt"


EVIL = {"command": "touch ran"}


def test_a_backbone_that_is_no_model_does_not_run(kindling: Command) -> None:
    stored = {"hyper_parameters": {"_class_path": "os.system", **EVIL}, "state_dict": {}, "global_step": 1}
    torch.save(stored, "evil.ckpt")
    result = kindling(*TRANSFER, "--model.backbone", "evil.ckpt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the checkpoint names the class os.system, which is not a model" in result.err
    assert not Path("ran").exists()


@pytest.mark.slow
def test_a_checkpoint_whose_backbone_is_no_model_runs_nothing(kindling: Command, cached: Path) -> None:
    assert kindling(*TRANSFER, "--trainer.max_epochs", "1").code == 0
    stored = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    stored["hyper_parameters"]["backbone"] = json.dumps({"model": "os.system", "arguments": EVIL})
    torch.save(stored, "evil.ckpt")
    result = kindling("test", "--ckpt_path", "evil.ckpt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "os.system, which is not a model" in result.err
    with pytest.raises(ValueError, match=r"os\.system"):
        TransferClassifier.load_from_checkpoint("evil.ckpt")
    assert not Path("ran").exists()


@pytest.mark.slow
def test_a_network_that_was_trained_here_is_a_backbone(kindling: Command) -> None:
    train = "fit --model CNNClassifier --model.channels [4,8] --data MNISTDataModule --data.source sample".split()
    few = ["--trainer.limit_train_batches", "5", "--trainer.max_epochs", "1", "--test_after_fit", "false"]
    assert kindling(*train, *few, "--run_name", "base").code == 0
    options = [*TRANSFER, "--model.backbone", "runs/base", "--model.unfreeze_epoch", "null"]
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
    for option, value, message in (
        ("weights", "IMAGENET1K_V1", "weights IMAGENET1K_V1 can't be chosen"),
        ("image_size", 8, "image_size can't be chosen"),
    ):
        result = kindling(*options, "--model.backbone", RUN, f"--model.{option}", value)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert message in result.err
    # And what was transferred is a backbone again.
    assert kindling(*options, "--model.backbone", RUN, "--run_name", "again").code == 0


@pytest.mark.parametrize(("channels", "takes"), [(1, 3), (3, 1), (3, 3)])
@pytest.mark.parametrize("size", [(10, 14), (4, 5)], ids=["larger", "smaller"])
def test_images_are_recolored_and_resized(channels: int, takes: int, size: tuple[int, int]) -> None:
    """Like Pillow, which averages all pixels when it shrinks an image."""
    images = torch.rand(2, channels, 15, 21)
    adapted = InputAdapter(takes, size)(images)
    if (channels, takes) == (3, 1):
        images = rgb_to_grayscale(images)
    for image, result in zip(images, adapted, strict=True):
        for number in range(takes):
            plane = Image.fromarray(image[number % len(image)].numpy())
            resized = np.array(plane.resize(size[::-1], Image.Resampling.BILINEAR))
            np.testing.assert_allclose(result[number].numpy(), resized, atol=1e-5)
