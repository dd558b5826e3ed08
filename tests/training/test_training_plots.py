from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from lightning.pytorch import Trainer
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from conftest import CURVES, TINY, Command
from kindling import MLPClassifier, SyntheticDataModule
from kindling.runs.history import read_history, read_learning_rates
from kindling.runs.metadata import RunMetadata
from kindling.runs.plots import PALETTE, fit_label, plot_history, plot_runs
from kindling.training import PlotTrainingHistory

RUN = Path("runs/tiny/version_0")


def shows(panel: NDArray[np.float32], color: str) -> bool:
    return bool((np.abs(panel - to_rgb(color)).max(axis=-1) < 0.02).sum() > 100)


def test_the_history_has_one_value_per_epoch(kindling: Command) -> None:
    kindling("fit", *TINY)
    history = read_history(RUN / "metrics.csv")
    for name in ("train/loss", "val/loss", "train/accuracy", "val/accuracy", "val/f1"):
        assert sorted(history[name]) == [0, 1]


@pytest.mark.usefixtures("pictures")
def test_the_plot_shows_both_splits_and_the_learning_rate(kindling: Command) -> None:
    kindling("fit", *TINY, "--trainer.log_every_n_steps", 1)
    pixels = matplotlib.image.imread(RUN / "training_history.png")[..., :3]
    loss, accuracy, rate = np.split(pixels, [int(0.38 * len(pixels)), int(0.74 * len(pixels))])
    for panel in (loss, accuracy):
        assert [shows(panel, color) for color in PALETTE[:3]] == [True, True, False]
    assert [shows(rate, color) for color in PALETTE[:3]] == [False, False, True]


def test_a_run_without_accuracy_shows_another_metric(folder: Path) -> None:
    Path("metrics.csv").write_text("epoch,step,train/loss,train/mae,val/loss,val/mae\n0,3,9,3,8,2\n1,7,5,2,4,1\n")
    pixels = matplotlib.image.imread(plot_history(folder))[..., :3]
    for panel in np.split(pixels, 2):
        assert [shows(panel, color) for color in PALETTE[:3]] == [True, True, False]


@pytest.mark.slow
def test_a_run_without_learning_rate_validation_or_epoch_has_a_plot(folder: Path) -> None:
    header = "epoch,lr,step,train/accuracy,train/loss,val/accuracy,val/loss\n"
    for rows in ("", "0,0.1,0,,,,\n", "0,,3,0.5,0.7,,\n", "0,0.1,3,0.5,nan,0.5,nan\n1,0,7,0.1,inf,,\n"):
        Path("metrics.csv").write_text(header + rows)
        picture = plot_history(folder)
        assert matplotlib.image.imread(picture).shape[0] > 500
        picture.unlink()


def test_steps_are_converted_to_epochs_by_the_ends_of_the_epochs(folder: Path) -> None:
    rows = [
        "epoch,lr/backbone,lr/head,step,train/loss",
        "0,0.1,0.2,1,",
        "0,,,3,0.5",
        "1,0.3,0.4,9,",
        "1,,,9,0.4",
        "2,1,2,12,",
    ]
    Path("metrics.csv").write_text("\n".join(rows))
    # Four steps in the first epoch, six in the second, and three in an unfinished third.
    expected = [(0.5, 0.1), (2.0, 0.3), (2.5, 1.0)]
    assert read_learning_rates(Path("metrics.csv"))["lr/backbone"] == expected
    assert [rate for _, rate in read_learning_rates(Path("metrics.csv"))["lr/head"]] == [0.2, 0.4, 2.0]


@pytest.mark.slow
def test_any_name_can_be_a_title(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    for name in ("a$x^$", "漢字", "long_" * 40):
        run = folder / name / "version_0"
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text(CURVES)
        assert plot_history(run).exists()
        histories = {f"{name}/version_{number}": read_history(run / "metrics.csv") for number in range(2)}
        assert plot_runs(histories, folder / "compare.png").exists()
    assert [str(warning.message) for warning in recwarn] == []


def test_a_plot_needs_metrics_csv() -> None:
    data = SyntheticDataModule(num_samples=100)
    trainer = Trainer(max_epochs=1, logger=False, callbacks=[PlotTrainingHistory()], enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"metrics.csv: train with Trainer\(logger=CSVLogger"):
        trainer.fit(MLPClassifier.for_data(data), data)


def test_a_long_name_is_shown_without_its_middle() -> None:
    shown = fit_label("a" * 100 + "/version_17", 60)
    assert (shown[:3], shown[-11:], len(shown)) == ("aaa", "/version_17", 61)


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_an_interrupted_run_has_its_plot_too(kindling: Command) -> None:
    spec = '[{"class_path": "helpers.SignalAt", "init_args": {"step": 9}}]'
    assert kindling("fit", *TINY, "--trainer.callbacks", spec).code == 1
    assert (RUN / "training_history.png").exists()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "failing", ["kindling.training.training_plots.plot_history", "kindling.tensorboard.dashboard.write_network"]
)
def test_an_error_in_a_plot_does_not_replace_the_signal_that_stopped_the_training(
    kindling: Command, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr(failing, fail)
    spec = '[{"class_path": "helpers.SignalAt", "init_args": {"step": 9, "number": 15}}]'
    result = kindling("fit", *TINY, "--trainer.callbacks", spec)
    assert result.code == 143
    assert "failed: ValueError: no font" in result.err
    assert RunMetadata.read(RUN).status == "stopped"
