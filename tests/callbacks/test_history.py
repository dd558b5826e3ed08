from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.colors import to_rgb

from conftest import TINY, Command
from kindling.curves import read_history
from kindling.plots import COLOURS

RUN = Path("runs/tiny/version_0")


def test_the_history_holds_a_figure_an_epoch(kindling: Command) -> None:
    kindling("fit", *TINY)
    history = read_history(RUN / "metrics.csv")
    for name in ("train/loss", "val/loss", "train/accuracy", "val/accuracy", "val/f1"):
        assert sorted(history[name]) == [0, 1]


def test_the_plot_shows_a_curve_for_training_and_one_for_validation(kindling: Command) -> None:
    kindling("fit", *TINY)
    pixels = matplotlib.image.imread(RUN / "training_history.png")[..., :3]
    left, right = np.array_split(pixels, 2, axis=1)
    for panel in (left, right):
        for colour in COLOURS.values():
            assert (np.abs(panel - to_rgb(colour)).max(axis=-1) < 0.02).sum() > 100


def test_an_interrupted_run_has_its_plot_too(kindling: Command) -> None:
    spec = '[{"class_path": "helpers.SignalAt", "init_args": {"step": 9}}]'
    assert kindling("fit", *TINY, "--trainer.callbacks", spec).code == 1
    assert (RUN / "training_history.png").exists()
