import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Command
from helpers import png_16
from kindling import load
from kindling.data.mnist import read_sample
from kindling.deploy.body_contents import from_images
from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor
from kindling.deploy.torchserve_handler import Handler

pytestmark = pytest.mark.usefixtures("quick_proof")

TORCHSERVE = Path(sys.executable).with_name("torchserve")
NEEDED = {"java": shutil.which("java"), "torchserve": TORCHSERVE.exists()}
MISSING = [name for name, found in NEEDED.items() if not found]


def free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: the real TorchServe is not asked")
def test_torchserve_responses_equal_the_predictions_of_the_checkpoint(kindling: Command, tmp_path: Path) -> None:
    options = "--model CNNClassifier --model.channels [4,8] --data MNISTDataModule --data.source sample".split()
    assert kindling("fit", *options, "--trainer.max_epochs", "1", "--run_name", "cnn").code == 0
    assert kindling("export", "--format", "torchserve", "--out", "store/digits.mar").code == 0
    ports = free_ports(3)
    names = ("inference", "management", "metrics")
    Path("config").write_text(
        "".join(f"{name}_address=http://127.0.0.1:{port}\n" for name, port in zip(names, ports, strict=True))
        + "default_workers_per_model=1\n"
    )
    flags = "--start --ncs --foreground --model-store store --models digits=digits.mar --ts-config config".split()
    places = {"LOG_LOCATION": str(tmp_path), "METRICS_LOCATION": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TORCHSERVE), *flags]
    with Path("log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | places, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{ports[0]}/predictions/digits"
        digits = read_sample("test")[0][::200]  # (5, 1, 28, 28)
        body = json.dumps({"inputs": (digits.float() / 255).tolist()}).encode()
        found = ask(address, body, process)
        labels, probabilities = load().predict(digits)
        assert [said["class"] for said in found["predictions"]] == labels
        np.testing.assert_allclose(
            [said["probability"] for said in found["predictions"]], probabilities.max(axis=1), atol=1e-5
        )
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(urllib.request.Request(address, body), timeout=60)  # without the token
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the server and its workers are processes of their own
        process.wait(30)


def ask(address: str, body: bytes, process: "subprocess.Popen[Any]") -> Any:
    """Asks as soon as it is up."""
    for _ in range(240):
        assert process.poll() is None, Path("log").read_text()
        try:
            token = json.loads(Path("key_file.json").read_text())["inference"]["key"]
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60) as response:
                return json.loads(response.read())
        except (OSError, ValueError):
            time.sleep(0.25)
    raise AssertionError(Path("log").read_text())


@pytest.mark.slow
def test_the_handler_says_what_is_wrong_with_each_request_of_a_batch(kindling: Command) -> None:
    options = "--model CNNClassifier --model.channels [4,8] --data MNISTDataModule --data.source sample".split()
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--run_name", "cnn"]
    assert kindling("fit", *options, *few).code == 0
    assert kindling("export", "--format", "torchserve").code == 0
    shutil.unpack_archive("runs/cnn/version_0/export/model.mar", "unpacked", "zip")
    program = (
        "import json, sys; from types import SimpleNamespace as N; from torchserve_handler import Handler;"
        "h = Handler();"
        "import kindling; assert 'unpacked' in kindling.__file__;"  # what it carries, not what is installed
        "h.initialize(N(system_properties={'model_dir': '.'}));"
        "image = [[[0.5] * 28] * 28];"
        "data = [{'body': {'inputs': [image, image]}}, {'body': b'text'}, {'data': {'inputs': [1]}}];"
        "data += [{'body': [image]}];"
        "print(json.dumps(h.handle(data, None)))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    printed = subprocess.run(command, cwd="unpacked", capture_output=True, text=True, check=True)
    first, second, third, fourth = json.loads(printed.stdout)
    expected = load().predict(np.full((1, 28, 28), 0.5, dtype=np.float32))
    for found, number in ((first, 2), (fourth, 1)):
        assert [said["class"] for said in found["predictions"]] == expected.labels * number
    assert "image is broken" in second["error"]
    assert "must have the shape (1, 28, 28)" in third["error"]


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_as_in_the_training_by_server_and_handler(channels: int) -> None:
    card = ModelCard("", ("a", "b"), (channels, 4, 4), levels=[100, 1100])
    data = png_16(np.random.default_rng(0).integers(50, 1200, (4, 4, channels)))
    handler = Handler()
    handler.card = json.loads(json.dumps(card.as_dict()))
    Path("photo.png").write_bytes(data)
    predictor = Predictor(lambda inputs: inputs, ModelCard.from_dict(handler.card))
    expected = predictor.inputs("photo.png")
    assert len(set(expected.flatten().tolist())) > 10
    assert torch.equal(handler.inputs(data), expected)
    assert torch.equal(from_images([("photo", data)], predictor), expected)
