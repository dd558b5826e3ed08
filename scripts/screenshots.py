"""Takes screenshots of TensorBoard after a few runs and combines them into one picture for the README.

python scripts/screenshots.py docs/tensorboard.png
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from browser import Board, chrome, tensorboard
from kindling.cli import main

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
SIZE = (1280, 860)
COLORS = 128  # of the picture: a third of the size without a visible difference
TRIALS = [
    f"--model.optimizer.lr {rate} --model.dropout {dropout} --data.batch_size {batch}"
    for rate, dropout, batch in ((6e-3, 0, 64), (1e-3, 0.2, 32), (3e-3, 0.1, 128), (2e-2, 0.4, 64), (1e-2, 0, 256))
]


def curves(board: Board) -> None:
    """Show loss and accuracy of one run, training and validation in one chart."""
    only = "runFilter=version_0%2F(train%7Cval)&tagFilter=%2F(loss%7Caccuracy)&smoothing=0"
    board.open("timeseries", "/loss", query=only)
    board.click(".settings-button")


def projector(board: Board) -> None:
    """Show the last hidden layer, colored by label."""
    board.open("projector", "Points:", "Dimension:")
    time.sleep(4)  # until the labels are loaded
    board.set("vz-projector-data-panel", "selectedColorOptionName", "label")


def parallel(board: Board) -> None:
    """Show hyperparameters against accuracy."""
    board.open("hparams", "dropout", "result/test_accuracy")
    board.click("paper-tab[view-id='parallel-coords-view']")


def pictures(board: Board) -> None:
    """Show the worst predictions."""
    board.open("images&tagFilter=worst", "worst predictions")


VIEWS: list[Callable[[Board], None]] = [curves, parallel, pictures, projector]


def photograph(out: Path) -> None:
    """Train, open TensorBoard, and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for trial in TRIALS:
            assert main(["fit", "--config", str(CONFIG), *trial.split()]) == 0
        shots = []
        with chrome(Path("profile"), *SIZE) as driver, tensorboard(Path("runs"), driver) as board:
            for view in VIEWS:
                view(board)
                time.sleep(3)  # until all animations have ended
                shots.append(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"))
    width, height = shots[0].size
    page = Image.new("RGB", (2 * width, -(-len(shots) // 2) * height))
    for number, shot in enumerate(shots):
        page.paste(shot, (number % 2 * width, number // 2 * height))
    page.quantize(COLORS).save(out, optimize=True)


if __name__ == "__main__":
    photograph(Path(sys.argv[1]).resolve())
