import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from conftest import LOADING, TINY, Command, Train, different
from kindling import CNNClassifier, MLPClassifier, MNISTDataModule, SyntheticDataModule

RUN = Path("runs/tiny/version_0")
DASHBOARD = ["test/events.out", "test/projector_config.pbtxt"]
DASHBOARD += [f"test/00014/last_hidden_layer/{of}.tsv" for of in ("tensors", "metadata")]


def config() -> dict[str, dict[str, object]]:
    loaded: dict[str, dict[str, object]] = yaml.safe_load((RUN / "config.yaml").read_text())
    return loaded


def rows(run: Path = RUN) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("pictures")
def test_fit_writes_one_complete_folder_and_prints_the_next_commands(kindling: Command) -> None:
    result = kindling("fit", *TINY)
    assert result.code == 0
    files = [path.relative_to(RUN) for path in RUN.rglob("*") if path.is_file()]
    assert {str(path.parent / path.name.split(".tfevents.")[0]) for path in files} == {
        *("config.yaml", "run.json", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
        "checkpoints/previous.ckpt",  # of the previous epoch
        *("training_history.png", "test_metrics.json", "predictions.csv", "label_errors.csv", "report.html"),
        *("train/events.out", "val/events.out", *DASHBOARD),
    }
    assert set(os.listdir()) == {"configs", "runs"}
    lines = result.out.splitlines()
    assert str(RUN) in lines[0]
    assert lines[-4] == "next:"
    for line, words in zip(lines[-3:], ("predict", "fit", "tensorboard"), strict=True):
        assert words in line
    figures = json.loads((RUN / "test_metrics.json").read_text())
    assert figures.keys() == {"test/loss", "test/accuracy", "test/balanced_accuracy", "test/f1"}
    assert f"{figures['test/accuracy']:.4f}" in result.out


def test_the_console_is_quiet(kindling: Command) -> None:
    result = kindling("fit", *TINY)
    assert result.err == ""
    assert len(result.out.splitlines()) == 1 + 2 + 9 + 1 + 1 + 4  # model, epochs, table, report, run, next
    for advert in ("GPU", "Tip", "litlogger", "Seed set", "`Trainer.fit` stopped"):
        assert advert not in result.out


def test_fit_can_skip_the_test(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--test_after_fit", "false")
    assert result.code == 0
    assert not (RUN / "test_metrics.json").exists()
    assert "test/" not in result.out


def test_the_best_checkpoint_is_the_epoch_of_the_lowest_validation_loss(kindling: Command) -> None:
    # With such a high learning rate, the loss increases again.
    kindling(
        "fit", *TINY, "--trainer.max_epochs", "8", "--model.optimizer.lr", "0.3", "--early_stopping.patience", "null"
    )
    losses = [float(row["val/loss"]) for row in rows() if row["val/loss"]]
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert len(losses) == 8
    assert losses.index(min(losses)) == best["epoch"] != 7
    table = kindling("validate", "--ckpt_path", "best").out
    assert f"{min(losses):.4f}" in table


def test_early_stopping_stops_after_its_patience(kindling: Command) -> None:
    """With a learning rate of zero, only the first validation improves the loss."""
    still = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0", "--trainer.max_epochs", "20"]
    kindling("fit", *TINY, *still)
    assert len([row for row in rows() if row["val/loss"]]) == 1 + 5
    kindling("fit", *TINY, *still, "--early_stopping.patience", "2")
    assert len([row for row in rows(Path("runs/tiny/version_1")) if row["val/loss"]]) == 1 + 2


def test_the_same_seed_gives_the_same_weights_to_the_bit(kindling: Command, mnist: Path) -> None:
    cnn = (
        "--model CNNClassifier --model.channels [4,8] --model.dropout 0.2 --data MNISTDataModule "
        f"--data.data_dir {mnist} --data.val_split 40 --data.degrees 10 --data.shift 0.1 "
        "--trainer.max_epochs 2 --trainer.precision bf16-mixed"
    ).split()
    for seed in (1, 1, 2):
        assert kindling("fit", *cnn, "--seed_everything", seed).code == 0
    one, again, other = (path / "checkpoints/last.ckpt" for path in sorted(Path("runs").glob("*/*")))
    assert different(one, again) == []
    assert "network.0.weight" in different(one, other)


@pytest.mark.parametrize("where", ["best", "last", RUN, Path("runs/tiny"), RUN / "checkpoints/best.ckpt"], ids=str)
def test_checkpoints_are_found_by_name_folder_and_file(kindling: Command, trained: Train, where: object) -> None:
    trained(*TINY)
    (RUN / "test_metrics.json").unlink()
    result = kindling("test", "--ckpt_path", where)
    assert result.code == 0, result.err
    assert ("last.ckpt" if where == "last" else "best.ckpt") in result.out
    assert (RUN / "test_metrics.json").exists()


def test_a_checkpoint_outside_of_a_run_needs_no_other_options(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    expected = json.loads((RUN / "test_metrics.json").read_text())
    Path("elsewhere").mkdir()
    shutil.move(RUN / "checkpoints/best.ckpt", "elsewhere/model.ckpt")
    result = kindling("test", "--ckpt_path", "elsewhere/model.ckpt")
    assert result.code == 0, result.err
    assert json.loads(Path("elsewhere/model/test_metrics.json").read_text()) == expected


def test_a_checkpoint_outside_of_a_run_leaves_the_files_beside_it_alone(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    shutil.copy(RUN / "checkpoints/best.ckpt", "model.ckpt")
    names = ("predictions.csv", "label_errors.csv", "test_metrics.json", "report.html", "config.yaml")
    for name in names:
        Path(name).write_text("someone else's")
    for command in ("test", "predict"):
        assert kindling(command, "--ckpt_path", "model.ckpt").code == 0
    assert {Path(name).read_text() for name in names} == {"someone else's"}
    assert {path.name for path in Path("model").iterdir()} == {*names} - {"config.yaml"}


def test_a_checkpoint_from_a_notebook_works_on_the_command_line(kindling: Command, mnist: Path) -> None:
    data = MNISTDataModule(data_dir=mnist, val_split=40)
    model = CNNClassifier.for_data(data, channels=(4,))
    trainer = Trainer(max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.fit(model, data)
    trainer.save_checkpoint("model.ckpt")
    figures = trainer.test(model, data, verbose=False)[0]
    result = kindling("test", "--ckpt_path", "model.ckpt")
    assert result.code == 0, result.err
    assert f"{figures['test/loss']:.4f}" in result.out


def test_predictions_equal_those_of_the_loaded_model(kindling: Command, trained: Train) -> None:
    """Without new samples, `predict` writes the predictions of the test split."""
    trained(*TINY)
    tested = (RUN / "predictions.csv").read_text().splitlines()
    result = kindling("predict", "--ckpt_path", "best")
    assert result.code == 0
    again = (RUN / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in again] == [line.split(",")[:3] for line in tested]  # including the labels
    for line, other in zip(again[1:], tested[1:], strict=True):
        assert [float(value) for value in line.split(",")[3:]] == pytest.approx(
            [float(value) for value in other.split(",")[3:]], abs=1e-5
        )
    assert str(RUN / "predictions.csv") in result.out
    with (RUN / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    data = SyntheticDataModule(num_samples=300)
    data.setup("predict")
    model = MLPClassifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    with torch.no_grad():
        probabilities = model.to_prediction(model(data.predict_set.inputs))
    assert [int(row["row"]) for row in table] == list(range(60))
    assert [int(row["prediction"]) for row in table] == probabilities.argmax(dim=1).tolist()
    written = torch.tensor([[float(row[name]) for name in "012"] for row in table])
    torch.testing.assert_close(written, probabilities, atol=1e-5, rtol=1e-4)
    assert [float(row["probability"]) for row in table] == pytest.approx(written.max(dim=1).values.tolist())


@pytest.mark.slow
def test_predictions_carry_the_names_of_the_classes(kindling: Command, mnist: Path) -> None:
    clothes = f"--model MLPClassifier --data MNISTDataModule --data.source FashionMNIST --data.data_dir {mnist}"
    kindling("fit", *clothes.split(), "--data.val_split", "40", "--trainer.max_epochs", "1", "--run_name", "tiny")
    kindling("predict", "--ckpt_path", "best")
    lines = (RUN / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith("row,label,prediction,probability,T-shirt/top,Trouser,")
    assert len(lines) == 1 + 100


def test_classes_named_like_columns_have_their_own_columns(kindling: Command) -> None:
    options = "--model MLPClassifier --model.hidden [8] --data helpers.ColumnsDataModule"
    assert kindling("fit", *options.split(), *TINY[-4:]).code == 0
    with (RUN / "predictions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["row", "label", "prediction", "probability", "p(label)", "p(row)", "p"]
    assert {row[2] for row in rows} <= {"label", "row", "p"}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("command", "name", "verb", "way_out"),
    [
        ("fit", "test", "test", "--test_after_fit false"),
        ("test", "test", "test", "at least 1"),
        ("validate", "val", "validate", "at least 1"),
        ("predict", "predict", "predict", "at least 1"),
    ],
)
def test_a_run_without_batches_is_refused_at_once(
    kindling: Command, command: str, name: str, verb: str, way_out: str
) -> None:
    if command != "fit":
        kindling("fit", *TINY)
    what = TINY if command == "fit" else ["--ckpt_path", "best"]
    result = kindling(command, *what, f"--trainer.limit_{name}_batches", "0")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"--trainer.limit_{name}_batches 0 leaves nothing to {verb}: set {way_out}" in result.err
    assert Path("runs").exists() == (command != "fit")


@pytest.mark.slow
def test_a_repeated_run_has_the_name_of_the_first(kindling: Command) -> None:
    Path("mine.yaml").write_text("trainer: {max_epochs: 1}\n")
    kindling("fit", "--config", "mine.yaml", *TINY[:-2])
    assert kindling("fit", "--config", "runs/mine/version_0/config.yaml").code == 0
    assert Path("runs/mine/version_1/config.yaml").exists()


def test_later_configs_win_and_options_win_over_all_configs(kindling: Command) -> None:
    Path("one.yaml").write_text(
        "trainer: {max_epochs: 7}\nmodel: {class_path: MLPClassifier, init_args: {dropout: 0.1}}\n"
    )
    Path("two.yaml").write_text("trainer: {max_epochs: 1}\nmodel: {init_args: {hidden: [3]}}\n")
    data = ["--data", "SyntheticDataModule", "--data.num_samples", "300"]
    result = kindling("fit", "--config", "one.yaml", "--config", "two.yaml", *data, "--model.dropout", "0.2")
    assert result.code == 0, result.err
    written = yaml.safe_load(Path("runs/one/version_0/config.yaml").read_text())
    assert written["trainer"]["max_epochs"] == 1
    assert written["model"]["init_args"]["hidden"] == [3]
    assert written["model"]["init_args"]["dropout"] == 0.2


def test_the_written_config_repeats_the_run(kindling: Command) -> None:
    kindling("fit", *TINY, "--seed_everything", "5")
    assert kindling("fit", "--config", RUN / "config.yaml").code == 0
    assert different(*(f"runs/tiny/version_{number}/checkpoints/last.ckpt" for number in (0, 1))) == []


def test_typed_options_win_over_a_checkpoint_outside_of_fit(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    fewer = kindling("predict", "--ckpt_path", "best", "--data.num_samples", "100")
    assert "20 predictions" in fewer.out


def test_the_debug_overlay_runs_all_stages_and_writes_no_files(kindling: Command) -> None:
    result = kindling("fit", "--config", "configs/quickstart.yaml", "--config", "configs/with/debug.yaml")
    assert result.code == 0, result.err
    assert "test/accuracy" in result.out
    assert os.listdir() == ["configs"]


@pytest.mark.slow
def test_a_fast_dev_run_with_a_checkpoint_leaves_its_results_unchanged(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    kindling("predict", "--ckpt_path", "best")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    for command in ("test", "predict", "validate"):
        result = kindling(command, "--ckpt_path", "best", "--config", "configs/with/debug.yaml")
        assert result.code == 0, result.err
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_failed_start_deletes_no_existing_files(kindling: Command, trained: Train, folder: Path) -> None:
    """A checkpoint in the current folder does not make that folder a run."""
    trained(*TINY)
    Path("last.ckpt").write_bytes((RUN / "checkpoints/last.ckpt").read_bytes())
    before = sorted(folder.rglob("*"))
    for where in ("last.ckpt", RUN):
        assert (
            kindling("fit", "--ckpt_path", where, "--trainer.max_epochs", "3", "--trainer.accelerator", "tpu").code == 1
        )
        assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_max_steps_counts_steps_over_epochs(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.max_epochs", "-1", "--trainer.max_steps", "17").code == 0
    stored = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    assert stored["global_step"] == 17
    assert [int(row["step"]) for row in rows() if row["val/loss"]] == [6, 13]


@pytest.mark.slow
def test_a_plateau_scheduler_works_with_rare_validation(kindling: Command) -> None:
    plateau = ["--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"]
    for rare in (["--trainer.check_val_every_n_epoch", "2"], ["--trainer.limit_val_batches", "0"]):
        result = kindling("fit", *TINY, *plateau, *rare, "--trainer.max_epochs", "3")
        assert result.code == 0, result.err


def test_a_run_without_loggers_keeps_its_checkpoints(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.logger", "false").code == 0
    assert {path.name for path in RUN.iterdir()} == {
        *("config.yaml", "run.json", "checkpoints", "test_metrics.json", "predictions.csv"),
        *("label_errors.csv", "report.html"),
    }


def test_a_logger_of_the_user_is_added(kindling: Command, folder: Path) -> None:
    own = {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "own"}}
    assert kindling("fit", *TINY, "--trainer.logger", json.dumps(own)).code == 0
    assert (folder / "own/version_0/metrics.csv").exists()
    assert (RUN / "metrics.csv").exists()


def test_a_few_batches_can_be_overfitted(kindling: Command) -> None:
    many = ["--trainer.overfit_batches", "2", "--trainer.max_epochs", "40", "--early_stopping.patience", "null"]
    assert kindling("fit", *TINY, *many, "--model.optimizer.lr", "0.03").code == 0
    assert [float(row["train/accuracy"]) for row in rows() if row["train/accuracy"]][-1] > 0.95


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("without", [["limit_val_batches", "0"], ["check_val_every_n_epoch", "9"]], ids=str)
def test_without_validation_the_last_epoch_is_the_best(kindling: Command, without: list[str]) -> None:
    result = kindling("fit", *TINY, f"--trainer.{without[0]}", without[1])
    assert (result.code, result.err) == (0, "")
    assert f"{RUN}/checkpoints/best.ckpt" in result.out
    assert kindling("fit", "--ckpt_path", RUN, "--trainer.max_epochs", "3").code == 0
    assert different(RUN / "checkpoints/best.ckpt", RUN / "checkpoints/last.ckpt") == []
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 21


@pytest.mark.slow
def test_two_processes_train_one_run_that_a_single_process_evaluates(kindling: Command, folder: Path) -> None:
    """DDP with gloo on the CPU: one run folder, and a checkpoint that a single process evaluates."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = [*TINY, "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    options += ["--data.num_samples", "305"]  # an odd number, which can't be divided evenly between two processes
    command = [sys.executable, "-m", "kindling", "fit", *options, "--trainer.max_epochs", "3"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert [str(path) for path in Path("runs").glob("*/*")] == [str(RUN)]
    assert process.stdout.count("test/accuracy") == 1
    assert process.stderr.removeprefix(LOADING) == ""
    # 220 samples in batches of 32 over both devices: 7 steps per epoch.
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 21
    # 61 test samples, divided between the processes: the metrics equal those of one process.
    figures = json.loads((RUN / "test_metrics.json").read_text())
    told = (RUN / "predictions.csv").read_text().splitlines()
    assert len(told) == 1 + 61
    assert kindling("test", "--ckpt_path", "best").code == 0
    assert json.loads((RUN / "test_metrics.json").read_text()) == pytest.approx(figures, abs=1e-6)
    one = (RUN / "predictions.csv").read_text().splitlines()
    for together, alone in zip(told[1:], one[1:], strict=True):
        assert together.split(",")[:3] == alone.split(",")[:3]  # row, label, prediction
        assert [float(value) for value in together.split(",")[3:]] == pytest.approx(
            [float(value) for value in alone.split(",")[3:]], abs=1e-5
        )
    losses = [row["val/loss"] for row in rows() if row["val/loss"]]
    assert f"{float(min(losses)):.4f}" in kindling("validate", "--ckpt_path", "best").out


def test_the_progress_bar_can_be_switched_off(kindling: Command) -> None:
    result = kindling("fit", *TINY, "--trainer.enable_progress_bar", "false")
    assert result.code == 0, result.err
    assert "epoch 1/2" not in result.out
