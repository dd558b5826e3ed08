"""The overlays with/wandb and with/mlflow, read back from what both write on this machine."""

import csv
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import LOADING, TINY, Command, different
from kindling.runs.run import Run
from kindling.training.trackers import LocalMLFlowLogger, check_server, finishing_trackers

RUN = Path("runs/tiny/version_0")


def settings() -> dict[str, Any]:
    found = Run.read(RUN).settings()
    assert {"model.hidden", "data.num_samples", "trainer.max_epochs", "seed_everything"} <= found.keys()
    return found


def measured(metric: str) -> float:
    value: float = json.loads((RUN / "test_metrics.json").read_text())[metric]
    return value


def recorded(metric: str) -> list[float]:
    """Return the values of a metric in `metrics.csv`."""
    with (RUN / "metrics.csv").open(newline="") as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row[metric]]


def check_own_files() -> None:
    """Check that the run folder is as complete as without a tracker."""
    names = ("train", "val", "metrics.csv", "test_metrics.json", "checkpoints/best.ckpt")
    assert [name for name in names if not (RUN / name).exists()] == []
    assert [*RUN.glob("train/events*")]


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a W&B file: after 7 bytes, blocks of 32 KiB with pieces of checksum, length and type."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, position, parts = file.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position < len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            record = pb.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_runs() -> list[list[Any]]:
    """Return the records of each session, in the order of their start."""
    files = [*Path("wandb").glob("offline-run-*/run-*.wandb")]
    sizes: list[int] = []
    for _ in range(100):  # W&B's own process writes its file a moment after the end of the session
        earlier, sizes = sizes, [file.stat().st_size for file in files]
        if sizes == earlier and min(sizes) > 1000:
            break
        time.sleep(0.2)
    sessions = [[*records(file)] for file in files]
    times = {id(each): next(r.run.start_time for r in each if r.HasField("run")) for each in sessions}
    return sorted(sessions, key=lambda each: (times[id(each)].seconds, times[id(each)].nanos))


def logged(records: list[Any], metric: str) -> list[float]:
    items = (item for record in records for item in record.history.item)
    return [json.loads(item.value_json) for item in items if metric in (item.key, "/".join(item.nested_key))]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in {"MODE": "offline", "SILENT": "true", "CACHE_DIR": "cache", "DATA_DIR": "staged"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with finishing_trackers():
        yield


@pytest.mark.usefixtures("offline")
def test_wandb_gets_configuration_metrics_and_best_checkpoint_of_each_run(kindling: Command) -> None:
    for options in (
        [*TINY, "--config", "with/wandb"],
        ["--ckpt_path", "last", "--trainer.max_epochs", "3"],
        [*TINY, "--config", "with/wandb", "--trainer.max_epochs", "1"],
    ):
        result = kindling("fit", *options)
        assert result.code == 0, result.err
    check_own_files()
    shutil.copytree("runs/tiny/version_1", "runs/tiny/version_2")
    assert kindling("fit", "--ckpt_path", "runs/tiny/version_2", "--trainer.max_epochs", "2").code == 0
    first, resumed, other, copied = sessions = wandb_runs()
    starts = [next(record.run for record in each if record.HasField("run")) for each in sessions]
    assert [start.display_name[-1] for start in starts] == ["0", "0", "1", "2"]
    assert starts[0].display_name == "tiny/version_0"
    assert starts[0].run_id == starts[1].run_id
    assert len({start.run_id for start in starts}) == 3  # the copy has its own
    config = {item.key: json.loads(item.value_json) for record in resumed for item in record.config.update}
    assert config | settings() == config
    assert logged(first, "val/loss") + logged(resumed, "val/loss") == pytest.approx(recorded("val/loss"))
    assert len(logged(other, "train/loss")) == len(logged(copied, "train/loss")) == 1
    assert logged(resumed, "test/accuracy") == pytest.approx([measured("test/accuracy")])
    *_, artifact = (record.artifact for record in resumed if record.HasField("artifact"))
    assert {"best", "latest"} <= {*artifact.aliases}
    (stored,) = artifact.manifest.contents
    assert different(stored.local_path, RUN / "checkpoints/best.ckpt") == []


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("options", [[], ["--config", "with/wandb"]], ids=["no tracker", "wandb"])
def test_a_wandb_run_that_the_user_started_goes_on(kindling: Command, options: list[str]) -> None:
    import wandb

    own = wandb.init(project="own")
    assert kindling("fit", *TINY, *options, "--trainer.max_epochs", "1").code == 0
    assert wandb.run is own
    own.log({"after": 1.0})


@pytest.mark.slow  # MLflow takes seconds to create its database
def test_mlflow_gets_configuration_metrics_and_best_checkpoint_of_each_run(kindling: Command) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
    for options in ([*TINY, "--config", "with/mlflow"], ["--ckpt_path", "last", "--trainer.max_epochs", "3"]):
        result = kindling("fit", *options)
        assert result.code == 0, result.err
    check_own_files()
    client = tracking.MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("kindling").experiment_id])
    assert (run.info.run_name, run.info.status) == ("tiny/version_0", "FINISHED")
    config = settings() | {"trainer.max_epochs": 2}  # MLflow never changes a parameter
    assert run.data.params == {name: str(value)[:250] for name, value in config.items()}
    config_file = Path(client.download_artifacts(run.info.run_id, "config.yaml"))
    assert config_file.read_bytes() == (RUN / "config.yaml").read_bytes()  # of the resumed run
    values = [each.value for each in client.get_metric_history(run.info.run_id, "val/loss")]
    assert values == pytest.approx(recorded("val/loss"))
    assert run.data.metrics["test/accuracy"] == pytest.approx(measured("test/accuracy"))
    assert different(client.download_artifacts(run.info.run_id, "best/best.ckpt"), RUN / "checkpoints/best.ckpt") == []


@pytest.mark.slow
def test_two_mlflow_loggers_resume_each_its_own_run(kindling: Command, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    stores = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]
    loggers = [
        {
            "class_path": "kindling.training.trackers.LocalMLFlowLogger",
            "init_args": {"experiment_name": "kindling", "tracking_uri": store},
        }
        for store in stores
    ]
    Path("both.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    for options in ([*TINY, "--config", "both.yaml"], ["--ckpt_path", "last", "--trainer.max_epochs", "3"]):
        result = kindling("fit", *options, "--test_after_fit", "false")
        assert result.code == 0, result.err
    trackers = Run.read(RUN).metadata.trackers
    assert [*trackers] == ["LocalMLFlowLogger", "LocalMLFlowLogger 2"]
    for store, run_id in zip(stores, trackers.values(), strict=True):
        client = tracking.MlflowClient(store)
        (run,) = client.search_runs([client.get_experiment_by_name("kindling").experiment_id])
        assert run.info.run_id == run_id
        assert len(client.get_metric_history(run_id, "val/loss")) == 3


@pytest.mark.slow
def test_a_run_that_was_deleted_in_mlflow_resumes_as_a_new_one(kindling: Command, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    store = f"sqlite:///{tmp_path}/mlflow.db"  # MLflow would use the database of another test with the same name
    assert kindling("fit", *TINY, "--config", "with/mlflow", "--trainer.logger.tracking_uri", store).code == 0
    client = tracking.MlflowClient(store)
    experiments = [client.get_experiment_by_name("kindling").experiment_id]
    (deleted,) = client.search_runs(experiments)
    client.delete_run(deleted.info.run_id)
    assert kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3").code == 0
    (run,) = client.search_runs(experiments)
    assert run.info.run_id != deleted.info.run_id


def test_mlflow_uses_the_server_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it for the processes that it starts
    assert LocalMLFlowLogger()._tracking_uri == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert LocalMLFlowLogger()._tracking_uri == "http://127.0.0.1:5000"


@pytest.mark.slow  # imports MLflow
def test_a_server_that_cannot_be_reached_ends_the_run_in_one_line(kindling: Command) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.handle_request).start()
        check_server(address)  # answers with an error
    result = kindling("fit", *TINY, "--config", "with/mlflow", "--trainer.logger.tracking_uri", address)
    message = f"can't reach the MLflow server at {address}: start it, or leave out tracking_uri and MLFLOW_TRACKING_URI"
    assert (result.code, result.err) == (1, f"kindling: error: {message}\n")
    assert not Path("runs").exists()


@pytest.mark.slow  # starts a process: W&B remembers the settings of this one
def test_wandb_without_a_login_ends_the_run_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path)}
    typed = [sys.executable, "-m", "kindling", "fit", *TINY, "--config", "with/wandb"]
    result = subprocess.run(
        typed, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    message = "W&B has no API key: run wandb login, or set WANDB_MODE=offline"
    assert (result.returncode, result.stderr.removeprefix(LOADING)) == (1, f"kindling: error: {message}\n")
    assert not Path("runs").exists()


def test_any_logger_gets_the_configuration(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "own").code == 0
    (file,) = Path("own").rglob("hparams.yaml")
    assert yaml.safe_load(file.read_text()) == settings()
    check_own_files()
