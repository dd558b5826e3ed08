"""The pages of docs/ and README.md: their commands and Python run. `test_guides.py` runs docs/your-own.md."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torchvision.models import get_model, get_model_weights, list_models

from conftest import CONFIGS, Command, Train
from kindling.cli.commands import COMMANDS
from kindling.deploy.addresses import free_port
from site_pages import generate_pages

ROOT = CONFIGS.parent
PAGES = sorted({*(ROOT / "docs").glob("*.md"), ROOT / "README.md"} - {ROOT / "docs/your-own.md"})
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LANGUAGES = {"bash", "python", "text", "javascript", "yaml"}  # text is for what is printed, and for folders

# Beginnings of commands that are not run, with the reason.
NOT_RUN = {
    "make ": "CI runs the targets; here they would install",
    "pip install": "needs a package index; CI installs",
    "python3 -m venv": "makes an environment; CI does",
    ".venv/bin/": "of the environment before it",
    "uv ": "needs a package index",
    "py -m venv": "Windows; CI has a job for it",
    ".venv\\Scripts\\": "Windows; CI has a job for it",
    "source ": "of the shell",
    "cd ": "of the shell",
    "tensorboard ": "a server; tests/tensorboard opens it in a browser",
    "optuna-dashboard ": "a server, and a package of its own",
    "docker ": "needs Docker",
    "python scripts/soak.py": "takes minutes; tests/training run a few of its kills",
    "torchserve ": "needs Java; tests/deploy/test_torchserve.py runs the archive",
    'curl -H "Authorization: Bearer $INFERENCE_KEY"': "needs TorchServe",
}
# Parts of `kindling` commands that are not run, with the reason.
NOT_RUN_WITH = {
    "--config with/ddp": "tests/cli/test_every_recipe.py trains with it",
    "--config with/fsdp": "tests/cli/test_every_recipe.py trains with it",
    "--trainer.devices 2": "tests/training train with two processes",
    "images_transfer --folds": "its processes would download weights; tests/data/images cross-validates a folder",
}
# Options in sentences that belong to another program or to an optimizer.
NOT_LISTED = {"--model_resume_path", "--model.optimizer.lr"}
NOT_LISTED |= {
    "--signal",
    "--requeue",
    "--open",
    "--ntasks",
    "--gpus",
    "--max",
    "--build",
}  # of Slurm, torchrun and Docker
QUICK = {"README.md"}  # in each run of the tests
# Pages about runs that are there already, or that are made by a command which is not run.
TRAINED = {
    "README.md": ["quickstart"],
    "checkpoints.md": ["quickstart"],
    "export.md": ["quickstart"],
    "get-started.md": ["quickstart"],
    "python.md": ["quickstart"],
    "resume.md": ["quickstart"],
    "runs.md": ["quickstart", "synthetic_mlp"],
    "serve.md": ["quickstart"],
}
STOPPED = ["--trainer.callbacks", '[{"class_path": "helpers.StopAt", "init_args": {"step": 0}}]']  # to be resumed
FEW = "--trainer.limit_train_batches 2 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2".split()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and text of each block of code."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(block: str) -> list[str]:
    lines = re.sub(r" *\\\n *", " ", block).splitlines()  # a command may continue in the next line
    return [line.strip() for line in lines if line.strip()]


def is_run(command: str) -> bool:
    return not command.startswith(tuple(NOT_RUN)) and not any(part in command for part in NOT_RUN_WITH)


def shorten(words: list[str]) -> list[str]:
    """Return a command with few batches and, unless it says how many, two epochs; the tests' MNIST is small."""
    if words[0] in ("repeat", "tune"):
        words = ["2" if before == "--trials" else word for before, word in zip(["", *words], words, strict=False)]
        return [words[0], *shorten(["fit", *words[1:]])[1:]]
    if "mnist" in " ".join(words).lower() and words[0] == "fit" and "sample" not in words:
        words = [*words, "--data.val_split", "0.2"]
    trains = words[0] == "fit" and not {"--help", "--model.help", "--data.help", "--find_lr", "--overfit"} & {*words}
    if not trains or "--ckpt_path" in words or "with/debug" in words or "EnsembleClassifier" in words:
        return words
    epochs = [] if {"--trainer.max_epochs", "--averaging.start_epoch"} & {*words} else ["--trainer.max_epochs", "2"]
    return [*words, *FEW, *epochs]


@pytest.fixture(scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory, mnist: Path) -> Path:
    """Create the data files named on the pages, in a folder."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(mnist, folder / "data")
    random = np.random.default_rng(0)
    for name, number in (("photos/cat", 12), ("photos/dog", 12), ("new_photos", 3)):
        (folder / name).mkdir(parents=True)
        for index in range(number):
            pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8) // (2 if "cat" in name else 1)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    (folder / "plants").mkdir()
    for index in range(30):
        pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "plants" / f"{index}.png")
    scans = [
        f"{'ill' if patient % 2 else 'well'}/p{patient}/p{patient}_{n}.png" for patient in range(10) for n in "123"
    ]
    for file in scans:
        (folder / "scans" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / "scans" / file)
    states = pd.DataFrame({"file": scans, "patient": [file.split("/")[1] for file in scans]})
    states.assign(ill=["ill/" in file for file in scans]).to_csv(folder / "scans.csv", index=False)
    files = [f"{index}.png" for index in range(30)]
    weights = pd.DataFrame({"image": files, "weight": [f"{weight:.2f} kg" for weight in random.uniform(1, 9, 30)]})
    weights.to_csv(folder / "weights.csv", index=False)
    tags = pd.DataFrame({"file": files, "tags": random.choice(["tree", "fruit", "tree|fruit"], 30)})
    tags.to_csv(folder / "tags.csv", index=False)
    table = pd.DataFrame({"age": random.integers(18, 90, 80), "plan": random.choice(["basic", "plus"], 80)})
    table["name"], table["phone"] = [f"name {index}" for index in range(80)], random.integers(10**8, 10**9, 80)
    table["churned"] = np.where(table["age"] > 50, "yes", "no")
    table.to_csv(folder / "customers.csv", index=False)
    table.drop(columns="churned").head(5).to_csv(folder / "new_customers.csv", index=False)
    houses = pd.DataFrame({"size": random.uniform(40, 200, 80).round(1), "town": random.choice(["Ulm", "Bonn"], 80)})
    houses["price"] = [f"{3000 * size + 50_000:,.2f}" for size in houses["size"]]
    houses.to_csv(folder / "houses.csv", index=False)
    houses.drop(columns="price").head(5).to_csv(folder / "new_houses.csv", index=False)
    visits = pd.DataFrame({"patient": np.arange(80) % 20, "visited": pd.date_range("2024-01-01", periods=80)})
    visits["pulse"], visits["ill"] = random.normal(70, 10, 80), random.choice(["yes", "no"], 80)
    visits.to_csv(folder / "visits.csv", index=False)
    return folder


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    """Replace the weights that torchvision downloads with random ones."""

    def download(url: str, path: str, *_: Any, **__: Any) -> None:
        name = next(name for name in list_models(torchvision.models) if get_model_weights(name).DEFAULT.url == url)
        torch.save(get_model(name).state_dict(), path)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)


@contextmanager
def serving(command: str) -> Iterator[str]:
    """Run `kindling serve` on a free port and yield its address."""
    port = free_port("127.0.0.1", 0)
    process = subprocess.Popen([sys.executable, "-m", *shlex.split(command), "--port", str(port)])
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                with urlopen(f"{address}/health"):
                    break
            except URLError:
                assert process.poll() is None
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def serve(server: str, clients: list[tuple[str, str]]) -> None:
    """Run a command that starts a server, and blocks with its clients: curl commands, Python and JavaScript."""
    with serving(server) as address:
        for language, text in clients:
            code = textwrap.dedent(text).replace("http://127.0.0.1:8000", address)
            if language == "python":
                names: dict[str, Any] = {}
                exec(code, names)
                assert "/predict" not in code or names["prediction"]["class"] in "0123456789"
            elif language == "javascript" and shutil.which("node"):
                words = ["node", "--input-type=module", "--eval", code]
                assert re.match(
                    r"\d [\d.]+\n", subprocess.run(words, check=True, capture_output=True, text=True).stdout
                )
            elif language == "bash" and shutil.which("curl"):
                for client in (command for command in commands(code) if command.startswith("curl ")):
                    words = shlex.split(client)
                    answer = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                    assert answer
                    assert "error" not in answer, client


def test_code_blocks_have_known_languages() -> None:
    assert len(PAGES) > 20
    assert {language for page in PAGES for language, _ in blocks(page)} == LANGUAGES


def test_each_exception_is_needed() -> None:
    typed = [
        command for page in PAGES for language, text in blocks(page) if language == "bash" for command in commands(text)
    ]
    unused = [start for start in NOT_RUN if not any(command.startswith(start) for command in typed)]
    assert unused + [part for part in NOT_RUN_WITH if not any(part in command for command in typed)] == []
    others = [command for command in typed if is_run(command) and not re.match(r"(\w+=\S+ )?kindling |curl ", command)]
    assert others == []


@pytest.mark.usefixtures("quick_proof", "plain_template", "downloads")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name not in QUICK))
        for page in PAGES
        if {"bash", "python"} & {kind for kind, _ in blocks(page)}
    ],
    ids=lambda page: page.name,
)
def test_commands_and_code_run(page: Path, kindling: Command, trained: Train, own_data: Path) -> None:
    shutil.copytree(own_data, ".", dirs_exist_ok=True)
    for recipe in TRAINED.get(page.name, []):
        trained(
            "--config",
            recipe,
            *FEW,
            "--trainer.max_epochs",
            "2",
            *STOPPED * (page.name in {"checkpoints.md", "resume.md"}),
        )
    names: dict[str, Any] = {}
    if page.name == "serve.md":
        serve("kindling serve --ckpt_path best", blocks(page))
        return
    for language, text in blocks(page):
        if language == "python" and not text.startswith("# src/"):
            exec(text.replace("Trainer(max_epochs=3)", "Trainer(fast_dev_run=2)"), names)
        elif language == "bash":
            run_commands([command for command in commands(text) if is_run(command)], kindling)


def run_commands(typed: list[str], kindling: Command) -> None:
    for command in typed:
        words = shlex.split(re.sub(r"^\w+=\S+ ", "", command), comments=True)[1:]
        if words[0] in COMMANDS and words[0] != "serve":
            result = kindling(*shorten(words))
            assert result.code == 0, f"{command}\n{result.out}{result.err}"


@pytest.mark.slow
def test_the_navigation_has_every_page() -> None:
    class Loader(yaml.SafeLoader):
        """Ignores MkDocs' own YAML tags."""

    Loader.add_constructor("!ENV", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", json.dumps(nav)))
    generated = {path for path, _ in generate_pages() if path.endswith(".md")}
    assert listed == generated | {path.name for path in (ROOT / "docs").glob("*.md")}


def test_the_reference_has_every_option_and_command(kindling: Command) -> None:
    pages = {path: content for path, content in generate_pages() if path.startswith("reference/")}
    shown = "".join(str(content) for content in pages.values())
    typed = set(
        re.findall(r"--(?:model|data|trainer|checkpoint|early_stopping|averaging)\.\w+", kindling("fit", "--help").out)
    )
    assert len(typed) > 15
    assert {option for option in typed if option not in shown} == set()
    assert all(f"## kindling {command}\n" in shown for command in COMMANDS)
    assert "| `--model.dropout` | Probability of zeroing a hidden activation, in [0, 1]. | `0.0` | float |" in shown
    assert "::: kindling.models.classification.ClassificationTask" in shown


def test_the_names_in_sentences_exist() -> None:
    """Imports and options in backticks exist."""
    pages = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "docs/your-own.md"])
    for module, names in re.findall(r"`from (kindling[\w.]*) import ([\w, ]+)`", pages):
        assert all(hasattr(import_module(module), name) for name in names.split(", ")), module
    reference = "".join(str(content) for path, content in generate_pages() if path.startswith("reference/"))
    options = set(re.findall(r"`(--[a-z]\w+(?:\.\w+)*)", pages))
    assert len(options) > 30
    assert {option for option in options if not re.search(rf"{option}\b", reference)} == NOT_LISTED
