"""Backbones from timm, with weights from the hub's cache or a file."""

import copy
import hashlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

from conftest import TRANSFER, Command
from kindling import TransferClassifier, TransferMultiLabelClassifier, TransferRegressor, load
from kindling.models.timm_weights import find_weights, load_timm_weights
from kindling.models.weight_order import convert_by_order

RESNET = "test_resnet.r160_in1k"
OPTIONS = [
    *TRANSFER,
    "--model.backbone",
    "timm:test_resnet",
    "--model.image_size",
    "32",
    "--model.interpolation",
    "bicubic",
]
State = dict[str, torch.Tensor]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of an empty cache of the hub, which can't be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def place(hub: Path, name: str, state: State, file_name: str = "model.safetensors") -> Path:
    """Put weights into the cache of the hub, as if they had been downloaded."""
    folder = hub / f"models--timm--{name}"
    file = folder / "snapshots" / ("0" * 40) / file_name
    file.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    return file


@pytest.fixture
def resnet(hub: Path) -> State:
    """Put weights of the smallest ResNet into the cache of the hub, and return them."""
    torch.manual_seed(1)
    state: State = timm.create_model(RESNET).state_dict()
    place(hub, RESNET, state)
    return state


def build(cls: Any = TransferClassifier, backbone: str = f"timm:{RESNET}", **options: Any) -> Any:
    task = {} if cls is TransferRegressor else {"num_classes": 3}
    return cls(backbone, **{"input_shape": (3, 20, 20), **task, **options})


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet_gn", "test_nfnet"])
def test_features_are_those_of_timm_on_images_that_timm_prepares(hub: Path, name: str) -> None:
    torch.manual_seed(1)
    whole = timm.create_model(name)
    config = whole.pretrained_cfg
    size = config["input_size"][1:]
    place(hub, f"{name}.{config['tag']}", whole.state_dict())
    theirs = timm.create_model(name, pretrained=True, num_classes=0).eval()
    image = Image.effect_noise(size, 100).convert("RGB")
    prepare = create_transform(config["input_size"], mean=config["mean"], std=config["std"], crop_pct=1.0)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, *size, 3).permute(0, 3, 1, 2) / 255
    model = build(backbone=f"timm:{name}", input_shape=(3, *size))
    with torch.no_grad():
        torch.testing.assert_close(model.features(pixels), theirs(prepare(image)[None]), rtol=1e-4, atol=1e-4)
    assert (model.source.size, model.source.interpolation) == (size, config["interpolation"])


def test_weights_decide_size_normalization_and_interpolation(
    resnet: State, console_logs: None, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build(backbone="timm:test_resnet")
    model.init_lazy_layers()
    line = (
        f"timm:{RESNET}: images are resized to 160 x 160 pixels (bilinear) and normalized with mean 0.5, 0.5, 0.5 and "
        "standard deviation 0.5, 0.5, 0.5, as its weights expect"
    )
    assert line in capfd.readouterr().err
    stored = {"backbone": f"timm:{RESNET}", "image_size": 160, "interpolation": "bilinear"}
    assert {name: model.hparams[name] for name in stored} == stored
    random = build(weights="none")
    assert (random.source.size, random.mean.flatten().tolist()) == ((20, 20), [0.0])


@pytest.mark.parametrize("form", [dict, lambda state: {"state_dict_ema": state, "epoch": 3}], ids=["plain", "timm's"])
def test_weights_come_from_a_file(hub: Path, form: Callable[[State], object]) -> None:
    """Also with a head for other classes, or without one."""
    torch.manual_seed(1)
    for classes in (0, 7):
        state = timm.create_model(RESNET, num_classes=classes).state_dict()
        torch.save(form(state), "mine.pth")
        model = build(weights="mine.pth")
        model.init_lazy_layers()
        assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())


def test_position_embeddings_of_another_size_are_interpolated(hub: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model("test_vit").state_dict()
    torch.save(state, "mine.pth")
    expected = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay={"file": "mine.pth"}, img_size=80, num_classes=1000
    ).state_dict()
    random = torch.get_rng_state()
    model = build(backbone="timm:test_vit", weights="mine.pth", image_size=80)
    created = torch.get_rng_state()
    model.init_lazy_layers()
    assert torch.equal(torch.get_rng_state(), created)
    assert not torch.equal(created, random)
    assert all(torch.equal(value, expected[key]) for key, value in model.backbone.state_dict().items())


def renamed(state: State) -> State:
    """Return weights with other names of the layers."""
    return {f"layers.{key.replace('.', '_', key.count('.') - 1)}": value for key, value in state.items()}


def test_weights_of_unknown_names_must_recognize_photographs(hub: Path) -> None:
    state = timm.create_model(RESNET).state_dict()
    torch.save(renamed(state), "renamed.pth")
    with pytest.raises(ValueError, match="order and shapes match, but with them the network does not recognize"):
        build(weights="renamed.pth").init_lazy_layers()


def test_weights_of_unknown_names_for_other_classes_are_refused(hub: Path) -> None:
    network = timm.create_model(RESNET, num_classes=7)
    message = r"mine\.pth has other names .* only a network with the 1,000 classes of ImageNet .*, and this one has 7"
    with pytest.raises(ValueError, match=message):
        convert_by_order(renamed(network.state_dict()), network, Path("mine.pth"), RESNET, ((160, 160), (0.5,), (0.5,)))


def swap(state: State) -> State:
    """Return weights in which two layers have changed their roles."""
    return {
        key.replace("running_mean", "*").replace("running_var", "running_mean").replace("*", "running_var"): value
        for key, value in state.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda state: dict(list(renamed(state).items())[1:]),
        lambda state: dict(reversed(renamed(state).items())),
        lambda state: swap(renamed(state)),
        lambda state: {key: value.flatten() for key, value in renamed(state).items()},
        lambda state: {
            f"{number}.{key.rpartition('.')[2]}": value for number, (key, value) in enumerate(state.items())
        },
    ],
    ids=["fewer", "other order", "other roles", "other shapes", "other layers"],
)
def test_weights_that_do_not_match_in_order_are_refused(hub: Path, change: Callable[[State], State]) -> None:
    torch.save(change(timm.create_model(RESNET).state_dict()), "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth contains no weights of {RESNET}"):
        build(weights="other.pth").init_lazy_layers()


@pytest.mark.parametrize(
    "missing",
    ["level3.tree1.tree1.conv1.weight", "base_layer.1.running_var", "level2.tree1.bn1.weight", "base_layer.1.bias"],
)
def test_a_weight_that_timm_does_not_require_is_missed(hub: Path, missing: str) -> None:
    """timm loads the weights of a DLA without complaint if some are missing."""
    state = timm.create_model("dla46_c").state_dict()
    del state[missing]
    torch.save(state, "fewer.pth")
    network = timm.create_model("dla46_c", num_classes=0)
    with pytest.raises(ValueError, match=f"{re.escape(missing)} is missing"):
        load_timm_weights(network, "dla46_c", "fewer.pth", (224, 224))


class Harmful:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("code-ran"),)


@pytest.mark.parametrize("source", ["file", "hub"])
def test_no_code_in_a_file_is_run(hub: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Also with older versions of timm, which run it by default."""
    monkeypatch.setattr(timm.models.load_state_dict, "__defaults__", (True, "cpu", False))
    torch.save({"state_dict": {"conv1.weight": Harmful()}}, "harmful.bin")
    if source == "hub":
        place(hub, RESNET, {"empty": torch.zeros(1)}).unlink()
        (folder,) = hub.rglob("snapshots/*")
        Path("harmful.bin").replace(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="that can be read without running code"):
        build(weights="DEFAULT" if source == "hub" else "harmful.bin").init_lazy_layers()
    assert not Path("code-ran").exists()


def test_weights_may_have_their_own_name_on_the_hub(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(hf_hub_id=f"timm/{RESNET}", hf_hub_filename="ema.safetensors", url="")
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: config)
    with pytest.raises(OSError, match=r"resolve/main/ema\.safetensors"):
        find_weights(RESNET)
    file = place(hub, RESNET, {"weight": torch.zeros(1)}, "ema.safetensors")
    assert find_weights(RESNET) == file


def test_a_download_with_another_checksum_is_refused(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.save(timm.create_model(RESNET).state_dict(), "original.pth")
    checksum = hashlib.sha256(Path("original.pth").read_bytes()).hexdigest()[:8]
    for name, is_right in ((f"resnet-{checksum}.pth", True), ("resnet-0123abcd.pth", False), ("resnet.pth", True)):
        file = Path("original.pth").rename(name)
        config = SimpleNamespace(hf_hub_id="", url=file.absolute().as_uri())
        monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name, config=config: config)
        if is_right:
            assert find_weights(RESNET).read_bytes() == file.read_bytes()
        else:
            with pytest.raises(OSError, match="can't download"):
                find_weights(RESNET)
        assert (tmp_path / "checkpoints" / name).exists() == is_right
        file.rename("original.pth")


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.backbone timm:test_resnett", "timm has no network test_resnett: did you mean timm:test_resnet"),
        ("--model.backbone convnextv2_nano", "unknown backbone 'convnextv2_nano': did you mean timm:convnextv2_nano?"),
        (
            "--model.backbone timm:test_vit",
            "can't download https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors: save it as ",
        ),
        (
            "--model.backbone timm:test_vit",
            "checkpoints/test_vit.r160_in1k.safetensors, or use --model.weights FILE, --model.weights none or --config "
            "images_cnn\n",
        ),
        ("--model.weights a1_in1k", f"{RESNET} has no weights a1_in1k: choose a file, DEFAULT or none; a tag is part"),
        ("--model.weights folder/gone", "there is no file folder/gone\n"),
        ("--model.weights broken.pth", "broken.pth is damaged, or contains no weights"),
        (
            "--model.weights list.pth",
            "list.pth is damaged, or contains no weights that can be read without running code",
        ),
        ("--model.weights text.pth", "text.pth contains no weights: it is not a dictionary of tensors"),
        ("--model.weights other.pth", f"other.pth contains no weights of {RESNET}: "),
        (
            "--model.backbone timm:test_vit --model.image_size 9",
            "timm:test_vit does not take images of 9 x 9 pixels: choose another --model.image_size",
        ),
        (
            "--model.backbone timm:test_mambaout",
            "timm has no weights of test_mambaout: use --model.weights FILE, or none",
        ),
        ("--model.backbone timm:qwen3_vit_88m_enc --model.image_size 384", "it gives no pooled features"),
    ],
)
def test_mistakes_are_said_in_one_line(kindling: Command, resnet: State, options: str, message: str) -> None:
    Path("broken.pth").write_text("nothing")
    torch.save([torch.zeros(3)], "list.pth")
    torch.save({"conv1": "nothing"}, "text.pth")
    torch.save(timm.create_model("test_efficientnet").state_dict(), "other.pth")
    result = kindling(*OPTIONS, *options.split())
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert message in result.err
    assert not Path("runs").exists()


def test_a_damaged_file_in_the_cache_is_named(kindling: Command, hub: Path, resnet: State) -> None:
    (file,) = hub.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    result = kindling(*OPTIONS)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{file} is damaged" in result.err


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository, whose only file is `pytorch_model.bin`."""

    def do_HEAD(self) -> None:
        found = self.path == f"/timm/{RESNET}/resolve/main/pytorch_model.bin"
        self.send_response(200 if found else 404)
        if found:
            self.send_header("ETag", '"1234"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(self.server.content)))  # type: ignore[attr-defined]
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.server.content)  # type: ignore[attr-defined]

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """Start a hub on this machine."""
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        torch.save(timm.create_model(RESNET).state_dict(), "original.pth")
        server.content = Path("original.pth").read_bytes()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def test_weights_are_downloaded_once(server: HTTPServer) -> None:
    build().init_lazy_layers()
    server.shutdown()
    model = build()
    model.init_lazy_layers()
    expected = torch.load("original.pth", weights_only=True)["conv1.0.weight"]
    assert torch.equal(model.backbone.state_dict()["conv1.0.weight"], expected)


def test_a_hub_that_does_not_answer_is_reported_at_once(server: HTTPServer) -> None:
    server.shutdown()
    server.server_close()
    start = time.monotonic()
    with pytest.raises(OSError, match=r"can't download https://huggingface\.co"):
        build().init_lazy_layers()
    assert time.monotonic() - start < 10  # not after five attempts


def test_without_the_package_one_line_names_the_extra(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kindling.utils.optional.find_spec", lambda name: None)
    result = kindling(*OPTIONS)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "this needs timm: pip install 'kindling-ml[timm]'" in result.err


@pytest.mark.slow
def test_timm_is_imported_only_if_it_is_used() -> None:
    code = (
        "from kindling import TransferClassifier; import sys\n"
        "TransferClassifier('resnet18', 'none', num_classes=2, input_shape=(3, 32, 32))\n"
        "assert 'timm' not in sys.modules and 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_run_is_resumed_tested_and_exported_without_the_hub(
    kindling: Command, resnet: State, hub: Path, quick_proof: None
) -> None:
    result = kindling(*OPTIONS, "--model.unfreeze_epoch", "2")
    assert result.code == 0, result.err
    assert "computing the features of" in result.out + result.err
    (file,) = hub.rglob("*.safetensors")
    file.unlink()
    checkpoint = "runs/tiny/version_0/checkpoints/best.ckpt"
    stored = torch.load(checkpoint, weights_only=True)
    assert stored["hyper_parameters"]["backbone"] == f"timm:{RESNET}"
    model = TransferClassifier.load_from_checkpoint(checkpoint).eval()
    whole = timm.create_model(RESNET, num_classes=0).eval()
    whole.load_state_dict(
        {
            k.removeprefix("network.backbone."): v
            for k, v in stored["state_dict"].items()
            if k.startswith("network.backbone.")
        }
    )
    digits = torch.rand(2, 1, 8, 8)
    larger = torch.nn.functional.interpolate(digits, (32, 32), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = model.head(whole((larger.expand(-1, 3, -1, -1) - 0.5) / 0.5))
        torch.testing.assert_close(model(digits), expected, rtol=1e-4, atol=1e-4)
        probabilities = model.to_prediction(model(digits)).numpy()
    assert load("runs/tiny").predict(digits).probabilities == pytest.approx(probabilities, abs=1e-4)
    for command in (["test"], ["predict"], [*OPTIONS, "--trainer.max_epochs", "4"]):
        result = kindling(*command, "--ckpt_path", "last")
        assert result.code == 0, result.err
    for form in ("onnx", "torch_export", "torchscript"):
        result = kindling("export", "--ckpt_path", "best", "--format", form)
        assert result.code == 0, result.err
    together = ["fit", "--model", "EnsembleClassifier", "--model.checkpoints", "[runs/tiny]", "--run_name", "both"]
    data = TRANSFER[TRANSFER.index("--data") : TRANSFER.index("--run_name")]
    assert kindling(*together, *data).code == 0
    again = [*TRANSFER, "--model.backbone", "runs/tiny", "--run_name", "again", "--model.unfreeze_epoch", "null"]
    result = kindling(*again)
    assert result.code == 0, result.err


@pytest.mark.parametrize("cls", [TransferRegressor, TransferMultiLabelClassifier])
def test_numbers_and_several_classes_take_a_step(resnet: State, cls: type) -> None:
    model = build(cls, unfreeze_epoch=0, image_size=32)
    targets = torch.tensor([0.5, 2.0]) if cls is TransferRegressor else torch.tensor([[0.0, 1, 1], [1, 0, 0]])
    loss = model.training_step((torch.rand(2, 3, 20, 20), targets), 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(copy.deepcopy(model).backbone.state_dict()["conv1.0.weight"], resnet["conv1.0.weight"])
