"""TensorBoard in a real browser: the visible content of each tab after two runs."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from browser import Board, chrome, tensorboard
from kindling.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tensorboard")]  # two trainings and one browser for all

DIGITS = (
    "fit --model CNNClassifier --model.channels [8] --model.hidden 16 --data MNISTDataModule --data.source sample "
    "--data.degrees 10 --trainer.max_epochs 2 --run_name digits"
).split()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """Train two short runs on real digits, and open TensorBoard on their folder."""
    folder = tmp_path_factory.mktemp("board")
    with contextlib.ExitStack() as stack:
        try:
            driver = stack.enter_context(chrome(folder / "profile", 1400, 900))
        except FileNotFoundError as error:
            pytest.skip(str(error))
        stack.enter_context(pytest.MonkeyPatch.context()).chdir(folder)
        assert main([*DIGITS, "--model.optimizer.lr", "0.01", "--model.dropout", "0.1"]) == 0
        assert main([*DIGITS, "--model.optimizer.lr", "0.003", "--data.batch_size", "128"]) == 0
        yield stack.enter_context(tensorboard(Path("runs"), driver))


def test_curves(board: Board) -> None:
    board.driver.set_window_size(1400, 2400)  # charts are drawn once they are in view
    words = ["/accuracy", "/loss", "/lr", "/gradient_norm", "/samples_per_second", "/memory_gb"]
    board.open("timeseries", *words)
    for _ in range(100):
        chart = board.wait().split("/loss")[1].split("optimization")[0]
        if all(f"digits/version_{number}/{stage}" in chart for number in (0, 1) for stage in ("train", "val")):
            return
        time.sleep(0.2)
    pytest.fail(f"the chart of the loss has no curves of all stages: {chart}")


def test_scalars(board: Board) -> None:
    board.open("scalars", "metrics", "accuracy", "optimization", "gradient_norm")


def test_pictures(board: Board) -> None:
    board.open("images", "confusion matrix", "worst predictions", "filters of the first layer", "training samples")
    assert int(board.find("img[src*='individualImage']").get_attribute("naturalWidth") or 0) > 100


def test_graph(board: Board) -> None:
    board.open("graphs&run=digits%2Fversion_0%2Ftrain", "Main Graph", "input", "Sequential", "output")


@pytest.mark.parametrize("tab", ["histograms", "distributions"])
def test_weights(board: Board, tab: str) -> None:
    board.open(tab, "weights", "/0.weight", "(gradient)")


def test_texts(board: Board) -> None:
    resume = "kindling fit --ckpt_path runs/digits/version_0"
    board.open("text", "Conv2d", "BatchNorm2d", resume, "class_path: kindling.CNNClassifier")


def test_precision_and_recall(board: Board) -> None:
    board.open("pr_curves", "precision-recall", "digits/version_0/val", "digits/version_1/test")


def test_projector(board: Board) -> None:
    board.open("projector", "Points:", "1000", "Dimension:", "16", "label", "prediction")


def test_hyperparameters(board: Board) -> None:
    text = board.open("hparams", "batch_size", "dropout", "lr", "result/test_accuracy", "result/val_accuracy", "128.00")
    assert text.count("digits/version_") >= 2
    board.click("paper-tab[view-id='parallel-coords-view']")
    board.wait("Color by")
    lines = board.find("tf-hparams-parallel-coords-plot").shadow_root.find_elements(By.CSS_SELECTOR, "path")
    assert len(lines) >= 2  # one for each run
