import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from conftest import TINY, Command, Train, make_run
from kindling.runs.plots import PALETTE

LINES = set(PALETTE) - {"#000000"}  # also the color of text


def colors(path: Path) -> set[str]:
    pixels = matplotlib.image.imread(path)[..., :3]
    return {color for color in LINES if (np.abs(pixels - to_rgb(color)).max(axis=-1) < 0.02).sum() > 100}


@pytest.mark.slow
def test_it_shows_the_settings_and_metrics_that_differ(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    assert kindling("fit", *TINY, "--model.hidden", "[16]", "--test_after_fit", "false").code == 0
    result = kindling("runs", "compare", "tiny/version_0", "tiny/version_1")
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.out.splitlines()]
    rows = {name: values for name, *values in lines}
    assert rows["model.hidden"] == ["[8]", "[16]"]
    assert rows["test_after_fit"] == ["true", "false"]
    assert "data.num_samples" not in rows
    tested = json.loads(Path("runs/tiny/version_0/test_metrics.json").read_text())
    assert rows["test/accuracy"] == [f"{tested['test/accuracy']:.4f}", ""]
    assert result.out.splitlines()[-1] == "curves: runs/compare.png"
    assert colors(Path("runs/compare.png")) == set(PALETTE[:2])


def test_identical_settings_are_reported(kindling: Command) -> None:
    for number in range(2):
        make_run(f"runs/a/version_{number}")
    assert "the settings are identical" in kindling("runs", "compare", "a/version_0", "a/version_1").out


def test_many_runs_have_distinct_colors_and_markers(kindling: Command) -> None:
    runs = [str(make_run(f"runs/some_recipe/version_{number}")) for number in range(11)]
    out = kindling("runs", "compare", *runs).out
    for run in runs:
        assert run.removeprefix("runs/") in out
    assert colors(Path("runs/compare.png")) == LINES
