"""`kindling tune`: studies, their interruption and their results."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from conftest import TINY, Command, different
from kindling.cli.jobs import Job
from kindling.cli.tune import _run_workers
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.runs.folders import written_checkpoints
from kindling.runs.run import Run
from kindling.tuning.search_space import SearchSpace
from kindling.tuning.study import Study
from kindling.utils.cores import JOBS, share_of_cores

OPTIONS = [option for option in TINY if option not in ("--run_name", "tiny")]
SPACE = "model.optimizer.lr: {low: 1.0e-4, high: 1.0, log: true}\nmodel.hidden: [[4], [8], [16, 16]]\n"
STUDY = Path("runs/tiny")


@pytest.fixture
def tune(folder: Path) -> list[str]:
    """Return a command; a search space and no runs are in the folder of the test."""
    Path("space.yaml").write_text(SPACE)
    return ["tune", *OPTIONS, "--search", "space.yaml", "--study", "tiny"]


@pytest.fixture
def study(kindling: Command, tune: list[str], run_cache: Path) -> dict[str, Any]:
    """Return the summary of a study of four trials in `runs/tiny`, which are trained only once."""
    if (run_cache / "study").exists():
        shutil.copytree(run_cache / "study", STUDY)
    else:
        result = kindling(*tune, "--trials", 4, "--format", "json")
        assert result.code == 0, result.err
        shutil.copytree(STUDY, run_cache / "study")
        assert json.loads(result.out) == json.loads((STUDY / "study.json").read_text())
    summary: dict[str, Any] = json.loads((STUDY / "study.json").read_text())
    return summary


def trials(folder: Path = STUDY) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db").get_trials()


def outcomes(folder: Path = STUDY) -> list[tuple[Any, ...]]:
    """Return what does not depend on time and place."""
    return [(one.number, one.state, one.params, one.values, one.intermediate_values) for one in trials(folder)]


def test_trials_are_runs_whose_best_metric_is_the_value(kindling: Command, study: dict[str, Any]) -> None:
    assert len(study["trials"]) == 4
    for trial in study["trials"]:
        run = Run.read(Path(trial["run"]))
        assert trial["value"] == run.metadata.best["val/loss"]
        assert run.settings()["model.optimizer.lr"] == trial["options"]["model.optimizer.lr"]
        assert run.settings()["model.hidden"] == json.loads(trial["options"]["model.hidden"])
        assert not (run.path / "test_metrics.json").exists(), "the test split is not used"
    values = [trial["value"] for trial in study["trials"]]
    assert study["best"] == values.index(min(values))
    best = STUDY / f"trial_{study['best']}/version_0"
    assert find_checkpoint(STUDY) == best / "checkpoints/best.ckpt"
    listed = kindling("runs")
    assert all(f"tiny/trial_{number}/version_0" in listed.out for number in range(4))
    events = [path for path in STUDY.glob("trial_*/version_0/test/events*") if b"_hparams_" in path.read_bytes()]
    assert len(events) == 4
    page = (STUDY / "study.html").read_text()
    assert all(f"<h2>{title}</h2>" in page for title in ("History", "Curves", "Importance", "All trials"))
    assert "<script src" not in page
    assert "trial_3" in page


@pytest.mark.usefixtures("study")
def test_a_trial_has_the_weights_of_fit_with_its_options(kindling: Command) -> None:
    run = STUDY / "trial_1/version_0"
    config = yaml.safe_load((STUDY / "best.yaml").read_text())
    assert "run_name" not in config
    settings = Run.read(run).settings()
    options = [f"--model.{name}={settings[f'model.{name}']}" for name in ("optimizer.lr", "hidden")]
    assert kindling("fit", *OPTIONS, *options, "--run_name", "alone").code == 0
    ours, alone = (Path(folder, "checkpoints/best.ckpt") for folder in (run, "runs/alone/version_0"))
    assert different(ours, alone) == []


def test_the_best_recipe_repeats_the_best_trial_and_is_tested(kindling: Command, study: dict[str, Any]) -> None:
    assert kindling("fit", "--config", STUDY / "best.yaml").code == 0
    best = STUDY / f"trial_{study['best']}/version_0"
    ours, again = (Path(run, "checkpoints/best.ckpt") for run in (best, "runs/best/version_0"))
    assert different(ours, again) == []
    assert Path("runs/best/version_0/test_metrics.json").exists()
    assert kindling("test", "--ckpt_path", best).code == 0


def test_the_first_trial_is_the_recipe(kindling: Command, tune: list[str]) -> None:
    assert kindling(*tune, "--trials", 1, "--model.optimizer", "Adam", "--model.optimizer.lr", "0.02").code == 0
    assert trials()[0].params == {"model.optimizer.lr": 0.02, "model.hidden": "[8]"}


@pytest.mark.slow
def test_hopeless_trials_are_pruned_with_their_reason(kindling: Command, tune: list[str]) -> None:
    assert kindling(*tune, "--trials", 14, "--trainer.max_epochs", 4, "--sampler", "random").code == 0
    pruned = [trial for trial in trials() if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        epochs = max(trial.intermediate_values)
        assert trial.user_attrs["reason"] == f"pruned after epoch {epochs}"
        assert Run.read(Path(trial.user_attrs["run"])).metadata.epochs == epochs < 4
    shown = kindling("runs", "show", pruned[0].user_attrs["run"]).out
    assert pruned[0].user_attrs["reason"] in shown
    resumed = kindling("fit", "--ckpt_path", pruned[0].user_attrs["run"])
    assert resumed.code == 0, resumed.err
    assert Run.read(Path(pruned[0].user_attrs["run"])).metadata.epochs == 4


@pytest.mark.slow
def test_without_pruning_all_trials_are_complete(kindling: Command, tune: list[str]) -> None:
    assert (
        kindling(*tune, "--trials", 7, "--trainer.max_epochs", 3, "--pruner", "none", "--sampler", "random").code == 0
    )
    assert {trial.state for trial in trials()} == {TrialState.COMPLETE}


def test_a_failed_trial_is_kept_with_its_reason(kindling: Command, tune: list[str]) -> None:
    Path("space.yaml").write_text("model.optimizer.lr: [0.01, 1.0e+30]\n")
    options = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.01", "--model.batch_norm", "false"]
    result = kindling(*tune, "--trials", 3, "--sampler", "random", "--pruner", "none", *options)
    assert result.code == 0, result.err
    failed = [trial for trial in trials() if trial.state == TrialState.FAIL]
    assert failed
    assert all("loss" in trial.user_attrs["reason"] and "\n" not in trial.user_attrs["reason"] for trial in failed)
    assert f"trial {failed[0].number}: failed: " in result.out


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_in_a_trial_ends_the_study_with_its_code(
    kindling: Command, tune: list[str], number: signal.Signals, code: int
) -> None:
    callback = {"class_path": "helpers.SignalAt", "init_args": {"step": 3, "number": int(number)}}
    result = kindling(*tune, "--trials", 2, "--trainer.callbacks", json.dumps([callback]))
    assert (result.code, result.err) == (code, "")
    assert "stopped; run the same command again to continue" in result.out
    assert [trial.state for trial in trials()] == [TrialState.RUNNING]


@pytest.mark.slow
def test_a_trial_that_exits_has_failed(kindling: Command, tune: list[str]) -> None:
    callback = {"class_path": "helpers.ExitAt", "init_args": {"step": 12, "code": "no license"}}
    result = kindling(*tune, "--trials", 2, "--trainer.callbacks", json.dumps([callback]))
    assert (result.code, result.out.count("failed: SystemExit: no license")) == (1, 2)


@pytest.mark.slow
def test_the_same_command_continues_and_more_trials_can_be_added(kindling: Command, tune: list[str]) -> None:
    assert kindling(*tune, "--trials", 2).code == 0
    first = outcomes()
    result = kindling(*tune, "--trials", 4)
    assert "2 trials finished before" in result.out
    assert outcomes()[:2] == first
    assert len(first) == 2
    assert kindling(*tune[:-1], "straight", "--trials", 4).code == 0
    assert outcomes() == outcomes(Path("runs/straight"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_study_killed_at_ten_random_moments_ends_like_one_that_was_not(
    kindling: Command, tune: list[str], number: signal.Signals
) -> None:
    tune = [*tune, "--trials", "24", "--trainer.max_epochs", "50", "--early_stopping.patience", "null"]
    command, environment = [sys.executable, "-m", "kindling", *tune], os.environ | {"OMP_NUM_THREADS": "1"}
    chance, kills = random.Random(0), 0
    while kills < 10:
        start = time.time()
        with subprocess.Popen(command, env=environment, stdout=-3, stderr=-3, start_new_session=True) as process:
            while process.poll() is None and not any(is_newer(path, start) for path in STUDY.glob("trial_*.log")):
                time.sleep(0.05)
            time.sleep(chance.random())
            assert process.poll() is None, "there is nothing left to interrupt: use more trials"
            os.killpg(process.pid, number)
        kills += 1
    assert kindling(*tune).code == 0
    straight = [part if part != "tiny" else "straight" for part in tune]
    assert kindling(*straight).code == 0
    assert outcomes() == outcomes(Path("runs/straight"))


def is_newer(path: Path, start: float) -> bool:
    return path.stat().st_mtime > start


def test_jobs_share_the_trials(kindling: Command, tune: list[str]) -> None:
    result = kindling(*tune, "--trials", 5, "--jobs", 2, "--format", "json")
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["trials"]) == 5
    found = trials()
    assert [trial.number for trial in found] == [0, 1, 2, 3, 4]
    assert len({trial.user_attrs["process"]["pid"] for trial in found}) == 2
    assert all(trial.state.is_finished() for trial in found)


@pytest.mark.slow
def test_all_processes_of_a_distributed_trial_train_and_prune_the_same(tune: list[str]) -> None:
    devices = "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp --trainer.max_epochs 3".split()
    command = [sys.executable, "-m", "kindling", *tune, *devices, "--trials", "9", "--sampler", "random"]
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    states = [trial.state for trial in trials()]
    assert len(states) == 9
    assert TrialState.PRUNED in states
    assert set(states) == {TrialState.PRUNED, TrialState.COMPLETE}


@pytest.mark.slow
def test_data_is_read_once(kindling: Command, tune: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from kindling import SyntheticDataModule

    read: list[str] = []
    load = SyntheticDataModule.load

    def count(self: Any, split: Any) -> Any:
        read.append(split)
        return load(self, split)

    monkeypatch.setattr(SyntheticDataModule, "load", count)
    Path("space.yaml").write_text(SPACE + "data.batch_size: [16, 32, 64]\n")
    assert kindling(*tune, "--trials", 4).code == 0
    assert read == ["train"]
    sizes = [Run.read(path).settings()["data.batch_size"] for path in sorted(STUDY.glob("trial_*/version_0"))]
    assert len(set(sizes)) > 1


def test_checkpoints_of_trials_are_not_the_newest_run(kindling: Command, tune: list[str]) -> None:
    assert kindling("fit", *TINY, "--run_name", "single").code == 0
    assert kindling(*tune, "--trials", 1).code == 0
    assert "single" in str(written_checkpoints(Path("runs"))[-1])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["qmc", "gp"])
def test_other_samplers_and_hyperband(kindling: Command, tune: list[str], sampler: str) -> None:
    options = ["--trials", 5, "--sampler", sampler, "--pruner", "hyperband", "--trainer.limit_train_batches", 1]
    assert kindling(*tune, *options).code == 0
    found = [trial.params["model.optimizer.lr"] for trial in trials()[1:]]
    assert len(set(found)) == len(found) == 4


def test_qmc_follows_one_sequence(folder: Path) -> None:
    space = SearchSpace.parse({"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}}, "space.yaml")
    study = Study.open(Path("runs/q"), None, {"mode": "min"}, space, sampler="qmc", seed=7)
    expected = optuna.create_study(sampler=optuna.samplers.QMCSampler(scramble=True, seed=7))
    for number in range(16):
        trial = study.next_trial(None)
        assert trial is not None
        study.finish(trial, float(number))
        other = expected.ask(dict(space.distributions))
        expected.tell(other, float(number))
        if number:  # the first one has no relative space yet
            assert trial.params == other.params


@pytest.mark.slow
def test_equal_trials_are_reported_too(kindling: Command, tune: list[str]) -> None:
    Path("space.yaml").write_text("model.dropout: [0.0, 1.0e-9]\nmodel.optimizer.lr: [1.0e-12, 1.0e-13]\n")
    monitor = ["--checkpoint.monitor", "val/accuracy"]
    result = kindling(*tune, *monitor, "--trials", 3, "--sampler", "random")
    assert result.code == 0, result.err
    assert len({trial.values[0] for trial in trials()}) == 1
    assert (STUDY / "study.html").exists()
    assert (STUDY / "best.yaml").exists()


def test_a_folder_that_was_there_before_is_kept(kindling: Command, tune: list[str]) -> None:
    STUDY.mkdir(parents=True)
    (STUDY / "notes.txt").write_text("mine")
    data = ["--data", "TableDataModule", "--data.path", "missing.csv", "--data.target", "y"]
    assert kindling("tune", "--model", "MLPClassifier", *data, *tune[-4:], "--trials", 3).code == 1
    assert (STUDY / "notes.txt").read_text() == "mine"


def test_a_data_module_of_the_user_is_read_for_each_trial(kindling: Command, tune: list[str]) -> None:
    Path("mine.py").write_text(
        "from kindling import SyntheticDataModule\n"
        "class Counting(SyntheticDataModule):\n"
        "    stage = 0\n"
        "    def train_dataloader(self):\n"
        "        assert self.stage == 0\n"
        "        self.stage = 1\n"
        "        return super().train_dataloader()\n"
    )
    options = [part if part != "SyntheticDataModule" else "Counting" for part in tune]
    result = kindling(*options, "--plugin", "mine.py", "--trials", 2)
    assert result.code == 0, result.err
    assert [trial.state for trial in trials()] == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (
            "model.optimizer.lrr: [0.1, 0.2]",
            [],
            "space.yaml: there is no option model.optimizer.lrr: did you mean model.optimizer.lr?",
        ),
        ("model.hidden: [[8], big]", [], "space.yaml: "),
        ("model.dropout: {low: 0.0, hgih: 0.5}", [], "there is no hgih: did you mean high?"),
        (SPACE, ["--trials", "0"], "--trials must be at least 1, got 0"),
        (SPACE, ["--timeout", "soon"], "expected a time such as 90s, 30m or 8h"),
        (SPACE, ["--trials", "2", "--ckpt_path", "best"], "--ckpt_path is for a single run"),
        (SPACE, ["--trials", "2", "--sampler", "best"], "--sampler"),
        (SPACE, ["--trials", "2", "--study", "../x"], "--study '../x'"),
        (SPACE, ["--trials", "2", "--storage", "nosuch://x"], "the study can't be stored in nosuch://x"),
        (SPACE, [], "give the number of trials"),
        ("model.label_smoothing: [0.0, 0.1]", ["--trials", "2"], "changes val/loss itself"),
        ("data.split_seed: [1, 2]", ["--trials", "2"], "data.split_seed can't be searched"),
        ("model:\n  dropout: [0.0, 0.1]", ["--trials", "2"], "write its options with dots, as in model.dropout"),
        (SPACE, ["--trails", "2"], "there is no option --trails: did you mean --trials?"),
        (SPACE, ["--trials", "2", "--run_name", "x"], "--run_name is for a single run"),
    ],
)
def test_mistakes_end_before_the_first_trial(
    kindling: Command, tune: list[str], content: str, options: list[str], words: str
) -> None:
    Path("space.yaml").write_text(content)
    result = kindling(*tune, *(options or ["--trials", "2"] * (content != SPACE)))
    assert result.code in (1, 2)
    assert words in result.err
    assert result.err.count("\n") == 1
    assert not Path("runs").exists()


def test_an_error_of_all_trials_ends_the_study_and_leaves_nothing(kindling: Command, tune: list[str]) -> None:
    data = ["--data", "TableDataModule", "--data.path", "missing.csv", "--data.target", "y"]
    result = kindling("tune", "--model", "MLPClassifier", *data, *tune[-4:], "--trials", 3)
    assert result.code != 0
    assert "missing.csv" in result.err
    assert not Path("runs").exists()


@pytest.mark.usefixtures("study")
def test_another_search_space_needs_another_study(kindling: Command, tune: list[str]) -> None:
    Path("space.yaml").write_text("model.hidden: [[4], [8]]")
    result = kindling(*tune, "--trials", 5)
    assert result.code == 2
    assert "is a study with different search space" in result.err
    assert len(trials()) == 4


@pytest.mark.parametrize(("recipe", "search"), [("quickstart", "cnn"), ("table_mlp", "table")])
def test_the_search_spaces_of_kindling_go_with_their_recipes(
    kindling: Command, folder: Path, recipe: str, search: str
) -> None:
    ages = [*range(20, 90)] * 2
    Path("customers.csv").write_text("age,churned\n" + "".join(f"{age},{'ny'[age > 50]}\n" for age in ages))
    data = ["--data.path", "customers.csv", "--data.target", "churned"] * (recipe == "table_mlp")
    short = "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1".split()
    result = kindling("tune", "--config", recipe, "--search", search, "--trials", 1, *data, *short)
    assert result.code == 0, result.err
    first = trials(Path(f"runs/{recipe}_{search}"))[0]
    assert first.params["model.optimizer.lr"] == {"cnn": 0.006, "table": 0.004}[search], "the recipe comes first"


def test_search_spaces_are_found_by_name(kindling: Command, folder: Path) -> None:
    result = kindling("tune", "--config", "quickstart", "--search", "cn", "--trials", 1)
    assert result.code == 2
    assert "there is no search space cn: did you mean cnn?" in result.err


def test_the_printed_share_of_a_trial_is_that_of_its_worker_in_a_slurm_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.setattr("kindling.cli.tune.run_jobs", lambda *_: (job for job in list[tuple[Job, int]]()))
    assert _run_workers([], 2, is_quiet=False) == 0
    monkeypatch.setenv(JOBS, "2")  # as in the workers
    assert f"each with {share_of_cores()} of 4 cores" in capsys.readouterr().out
