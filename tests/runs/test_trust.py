"""Untrusted run folders, checkpoints and ONNX files: no code is run, and no file outside of the folder is used."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from conftest import TINY, Command, Train
from kindling import load
from kindling.runs.checkpoints import read_checkpoint
from kindling.runs.signatures import is_own, sign
from kindling.runs.untrusted_config import check_class_paths
from kindling.runs.untrusted_files import check_factories

RUN = Path("runs/tiny/version_0")
MORE = ["fit", "--ckpt_path", "last", "--trainer.max_epochs", "3"]
CONFIG = RUN / "config.yaml"
OUTSIDE = Path("outside")


def change_config(change: Callable[[dict[str, Any]], None]) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    change(config)
    CONFIG.write_text(yaml.safe_dump(config))


def change_checkpoint(change: Callable[[dict[str, Any]], None], name: str = "last") -> Path:
    """Modify a checkpoint as another program could."""
    path = RUN / "checkpoints" / f"{name}.ckpt"
    stored = torch.load(path, weights_only=True)
    change(stored)
    torch.save(stored, path)
    return path


def files(folder: Path = Path()) -> set[str]:
    return {str(path) for path in folder.rglob("*") if RUN not in path.parents}


OWN = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=outside", "--trainer.callbacks+=helpers.MemoryRecorder"]


@pytest.mark.slow
def test_a_run_of_this_user_keeps_all_settings(kindling: Command, tmp_path: Path) -> None:
    assert kindling("fit", *TINY, *OWN, "--test_after_fit", "false").code == 0
    assert is_own(CONFIG)
    shutil.copytree(RUN, "copy")
    for options in (MORE, [*MORE[:1], "--ckpt_path", "copy", *MORE[3:]]):
        before = files(OUTSIDE)
        result = kindling(*options)
        assert result.code == 0, result.err
        assert "is from elsewhere" not in result.err
        assert files(OUTSIDE) > before
    assert "helpers.MemoryRecorder" in CONFIG.read_text()


def test_a_changed_or_foreign_configuration_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("config.yaml")
    assert not is_own(path)
    path.write_text("a: 1\n")
    assert not is_own(path)
    sign(path)
    assert is_own(path)
    assert yaml.safe_load(path.read_text()) == {"a": 1}
    signed = path.read_text()
    path.write_text(signed.replace("a: 1", "a: 2"))
    assert not is_own(path)
    path.write_text(signed + "a: 2\n")
    assert not is_own(path)
    path.write_text(signed)
    monkeypatch.setenv("XDG_CONFIG_HOME", "elsewhere")
    assert not is_own(path)
    sign(path)
    assert Path("elsewhere/kindling/key").stat().st_mode & 0o77 == 0
    monkeypatch.setenv("XDG_CONFIG_HOME", "config.yaml")  # no key can be stored here
    sign(path)
    assert not is_own(path)


LOGGER = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "outside"}}
PROFILER = {"class_path": "AdvancedProfiler", "init_args": {"dirpath": "outside", "filename": "profile"}}
SAVER = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "outside"}}
STRANGE = {
    "trainer.logger": LOGGER,
    "trainer.profiler": PROFILER,
    "trainer.callbacks": [SAVER],
    "trainer.plugins": ["lightning.pytorch.plugins.io.AsyncCheckpointIO"],
    "trainer.strategy": {"class_path": "DDPStrategy", "init_args": {"process_group_backend": "gloo"}},
    "trainer.default_root_dir": "outside",
}
LOOSE = "from pathlib import Path\nPath('ran').touch()\n"


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", STRANGE)
def test_classes_and_paths_in_a_foreign_trainer_config_are_ignored(
    kindling: Command, trained: Train, name: str
) -> None:
    trained(*TINY)
    change_config(lambda config: config["trainer"].update({name.removeprefix("trainer."): STRANGE[name]}))
    before = files()
    result = kindling(*MORE)
    assert result.code == 0, result.err
    line = f"{CONFIG} is from elsewhere: ignoring {name}; add --config {CONFIG} to trust it"
    assert result.err == f"{line}\n"
    assert files() == before
    assert is_own(CONFIG)  # resuming signs the run


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["profiler", "strategy", "accelerator", "precision"])
def test_a_dotted_name_for_the_trainer_is_not_imported(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trained(*TINY)
    Path("loose.py").write_text(LOOSE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    change_config(lambda config: config["trainer"].update({name: "loose.thing"}))
    result = kindling(*MORE)
    assert result.code == 0, result.err
    assert f"ignoring trainer.{name}" in result.err
    assert not Path("ran").exists()


@pytest.mark.slow
def test_a_run_from_elsewhere_resumes_its_averaging(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--averaging", "EMA", "--test_after_fit", "false").code == 0
    change_config(lambda config: config["trainer"].update(default_root_dir="outside"))
    result = kindling(*MORE)
    assert result.code == 0, result.err
    assert "ignoring averaging" not in result.err
    assert "current_model_state" in torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)


def test_results_of_a_lone_checkpoint_are_not_written_through_a_link(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    Path("theirs").mkdir()
    OUTSIDE.mkdir()
    shutil.copy(RUN / "checkpoints/best.ckpt", "theirs/model.ckpt")
    Path("theirs/model").symlink_to(OUTSIDE.absolute())
    result = kindling("test", "--ckpt_path", "theirs/model.ckpt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "theirs/model is a link to another folder" in result.err
    assert not list(OUTSIDE.iterdir())


def test_results_are_not_written_through_a_linked_folder_of_checkpoints(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    OUTSIDE.mkdir()
    shutil.copy(RUN / "checkpoints/best.ckpt", OUTSIDE / "best.ckpt")
    Path("theirs").mkdir()
    Path("theirs/checkpoints").symlink_to(OUTSIDE.absolute())
    for checkpoint in ("theirs", "theirs/checkpoints/best.ckpt"):
        result = kindling("test", "--ckpt_path", checkpoint)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "theirs/checkpoints is a link to another folder" in result.err
    assert [path.name for path in OUTSIDE.iterdir()] == ["best.ckpt"]


def test_code_around_a_folder_of_checkpoints_is_not_imported(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    Path("theirs/checkpoints").mkdir(parents=True)
    stored = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    stored["hyper_parameters"]["_class_path"] = "evil.Net"
    del stored["signature"]
    torch.save(stored, "theirs/checkpoints/best.ckpt")
    Path("theirs/evil.py").write_text("open('ran', 'w')")
    monkeypatch.syspath_prepend(Path("theirs").absolute())
    result = kindling("test", "--ckpt_path", "theirs/checkpoints/best.ckpt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "evil.Net" in result.err
    assert not Path("ran").exists()


@pytest.mark.slow
def test_a_foreign_configuration_is_used_if_it_is_named(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    change_config(lambda config: config["trainer"].update(logger=LOGGER))
    shutil.copy(CONFIG, "trusted.yaml")
    assert kindling("fit", "--config", "trusted.yaml", *MORE[1:]).code == 0
    assert list(OUTSIDE.rglob("metrics.csv"))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["../../outside", ".."])
def test_a_foreign_run_name_cannot_leave_the_runs_folder(kindling: Command, trained: Train, name: str) -> None:
    trained(*TINY)
    change_config(lambda config: config.update(run_name=name))
    result = kindling("fit", "--ckpt_path", RUN / "checkpoints/best.ckpt", "--trainer.max_epochs", 3)
    assert result.code == 0, result.err
    assert f"{CONFIG} is from elsewhere: ignoring run_name" in result.err
    assert {path.parent.name for path in Path("runs").glob("*/version_*")} == {
        "tiny",
        "MLPClassifier-SyntheticDataModule",
    }


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("text", ["secret.yaml", "[1]"])
@pytest.mark.parametrize("group", ["trainer", "data", "early_stopping"])
def test_a_foreign_configuration_reads_no_other_file(kindling: Command, trained: Train, group: str, text: str) -> None:
    trained(*TINY)
    Path("secret.yaml").write_text("max_epochs: 7\npatience: 7\nsecret: 1\n")
    change_config(lambda config: config.update({group: yaml.safe_load(text)}))
    result = kindling("fit", "--ckpt_path", RUN, *MORE[3:])
    assert result.code == 0, result.err
    assert f"ignoring {group}" in result.err
    assert "secret: 1" not in result.out + result.err


EVIL = "from pathlib import Path\nfrom kindling import {base}\nPath('ran').touch()\nclass Evil({base}): pass\n"


def code_in(folder: Path, base: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "evil.py").write_text(EVIL.format(base=base))
    return ".".join((*folder.parts, "evil", "Evil"))


@pytest.mark.parametrize(
    ("command", "where"),
    [
        *((command, "inside") for command in ("fit", "test", "load")),
        ("predict", "beside"),
        ("export", "inside"),
        ("backbone", "inside"),
    ],
)
def test_code_that_comes_with_a_run_is_not_run(
    kindling: Command, trained: Train, command: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    monkeypatch.syspath_prepend(str(Path.cwd()))  # as `python -m` does
    name = code_in(RUN if where == "inside" else RUN.parent, "MLPClassifier")
    for kind in ("best", "last"):
        path = change_checkpoint(lambda stored: stored["hyper_parameters"].update(_class_path=name), kind)
    if command == "load":
        with pytest.raises(ValueError, match="its code is in the run folder"):
            load(path)
    else:
        backbone = "fit --model TransferClassifier --data DigitsDataModule --model.backbone".split()
        result = kindling(*(backbone if command == "backbone" else [command, "--ckpt_path"]), RUN)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert f"refusing to import class {name}: its code is in the run folder" in result.err
    assert not Path("ran").exists()
    assert not any(module.endswith("evil") for module in sys.modules)


@pytest.mark.parametrize("place", ["checkpoint", "config", "optimizer", "nested"])
def test_other_classes_in_a_foreign_config_run_no_code(
    kindling: Command, trained: Train, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    name = code_in(RUN, "SyntheticDataModule")
    evil: dict[str, Any] = {"class_path": name, "init_args": {}}
    if place == "checkpoint":
        CONFIG.unlink()
        change_checkpoint(lambda stored: stored["datamodule_hyper_parameters"].update(_class_path=name))
    elif place == "config":
        change_config(lambda config: config["data"].update(class_path=name))
    elif place == "optimizer":
        change_checkpoint(lambda stored: stored["hyper_parameters"].update(optimizer=evil))
    else:
        text = f'{{"model": "{name}", "arguments": {{}}}}'
        change_checkpoint(lambda stored: stored["hyper_parameters"].update(backbone=text))
    result = kindling(*MORE)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"refusing to import class {name}: its code is in the run folder {RUN}" in result.err
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["subprocess.Popen", "os.system", "idlelib.idle.X", "antigravity.X"])
def test_modules_of_python_are_not_even_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, name.split(".")[0], raising=False)
    with pytest.raises(ValueError, match=f"the checkpoint names the class {name}, which is not a model"):
        check_class_paths({"class_path": name}, RUN)
    assert name.split(".")[0] not in sys.modules or name.startswith(("os", "subprocess"))


def test_a_function_of_python_is_no_data_source(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    change_config(lambda config: config["data"].update(class_path="os.system"))
    result = kindling("test", "--ckpt_path", "last")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the checkpoint names the class os.system, which is not a data source" in result.err


LINKS = {"checkpoints": "fit", "train": "fit", "export": "test", "metrics.csv": "fit", "config.yaml": "fit"}


@pytest.mark.parametrize(("link", "command"), [*LINKS.items(), ("test", "test"), ("checkpoints/best.ckpt", "test")])
def test_links_out_of_a_foreign_run_are_refused(kindling: Command, trained: Train, command: str, link: str) -> None:
    trained(*TINY)
    change_config(lambda config: config.update(test_after_fit=False))
    path = RUN / link
    OUTSIDE.mkdir()
    if path.exists():
        path.rename(OUTSIDE / path.name)
    else:
        (OUTSIDE / path.name).mkdir()
    path.symlink_to((OUTSIDE / path.name).absolute())
    before = {name: Path(name).stat().st_mtime_ns for name in files(OUTSIDE)}
    result = kindling(command, "--ckpt_path", RUN)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{path} is a link out of a run folder from elsewhere" in result.err
    assert {name: Path(name).stat().st_mtime_ns for name in files(OUTSIDE)} == before


@pytest.mark.slow
def test_a_run_of_this_user_may_have_linked_checkpoints(kindling: Command) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    (RUN / "checkpoints").rename("scratch")
    (RUN / "checkpoints").symlink_to(Path("scratch").absolute())
    result = kindling(*MORE)
    assert result.code == 0, result.err


def test_best_checkpoints_named_by_a_foreign_run_are_not_deleted(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    Path("mine.ckpt").touch()
    inside = RUN / "checkpoints" / "../../../../mine.ckpt"

    def change(stored: dict[str, Any]) -> None:
        (state,) = (state for name, state in stored["callbacks"].items() if name.startswith("BestCheckpoint"))
        for path in (str(inside), str(Path("mine.ckpt").absolute())):
            state["best_k_models"][path] = torch.tensor(9.0)
            state["kth_best_model_path"] = state["best_model_path"] = path

    for options in (MORE, ["fit", "--ckpt_path", RUN / "checkpoints/best.ckpt", *MORE[3:-1], "5"]):
        for name in ("best", "last"):
            change_checkpoint(change, name)
        result = kindling(*options)
        assert result.code == 0, result.err
        assert Path("mine.ckpt").exists()


def test_a_model_is_built_from_its_checkpoint_alone(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    shutil.copy(RUN / "checkpoints/best.ckpt", "other.ckpt")
    parts = {"checkpoints": ["other.ckpt"], "_class_path": "kindling.models.ensemble.EnsembleClassifier"}

    def change(stored: dict[str, Any]) -> None:
        stored["hyper_parameters"].pop("hidden")
        stored["hyper_parameters"].update(parts)

    change_checkpoint(change)
    for command in ("test", "predict"):
        result = kindling(command, "--ckpt_path", RUN / "checkpoints/last.ckpt")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "last.ckpt is incomplete: a part of its model is in another file, other.ckpt" in result.err


def test_names_do_not_control_the_terminal(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    change_config(lambda config: config["trainer"].update({"\x1b[2Jx": "/"}))
    result = kindling(*MORE)
    assert "\x1b" not in result.out + result.err
    result = kindling("test", "--ckpt_path", "a\x1b[2J")
    assert result.code == 1
    assert "\x1b" not in result.err


LAMBDA = {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "os.close"}}
FACTORIES: list[tuple[str, object, str]] = [
    ("lr_scheduler", LAMBDA, "names the function os.close in its lr_scheduler"),
    ("lr_scheduler", LAMBDA | {"init_args": {"lr_lambda": ["pandas.read_pickle"]}}, "names the function pandas."),
    ("lr_scheduler", {"class_path": "torch.hub.load", "init_args": {}}, "names torch.hub.load as its lr_scheduler"),
    ("optimizer", {"class_path": "pandas.read_pickle", "init_args": {}}, "names pandas.read_pickle as its optimizer"),
    ("optimizer", {"class_path": "torch.nn.Linear", "init_args": {}}, "names torch.nn.Linear as its optimizer"),
    ("optimizer", "torch.hub.load", "names torch.hub.load as its optimizer"),
]


@pytest.mark.parametrize(("part", "value", "message"), FACTORIES)
def test_functions_named_in_a_foreign_checkpoint_are_refused(part: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_factories({part: value}, Path("other.ckpt"))


@pytest.mark.parametrize("command", ["fit", "test"])
def test_functions_named_in_a_foreign_checkpoint_are_not_called(
    kindling: Command, trained: Train, command: str
) -> None:
    trained(*TINY)
    CONFIG.unlink()
    change_checkpoint(lambda stored: stored["hyper_parameters"].update(lr_scheduler=LAMBDA))
    result = kindling(*(MORE if command == "fit" else ["test", "--ckpt_path", "last"]))
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "names the function os.close in its lr_scheduler" in result.err


SECRETS = {"run.json": '{"recipe": "secret"}', "config.yaml": "secret: 1", "metrics.csv": "epoch,val/secret\n0,1"}


@pytest.mark.parametrize("name", SECRETS)
def test_kindling_runs_reads_no_file_outside_of_a_foreign_run(kindling: Command, trained: Train, name: str) -> None:
    trained(*TINY)
    if name == "metrics.csv":
        (RUN / "run.json").unlink()
    Path("elsewhere").write_text(SECRETS[name])
    CONFIG.write_text(CONFIG.read_text() + "# changed")
    (RUN / name).unlink()
    (RUN / name).symlink_to(Path("elsewhere").absolute())
    result = kindling("runs", "show", RUN)
    assert result.code == 0
    assert "secret" not in result.out


def test_kindling_runs_reads_no_pipes_devices_or_endless_files(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    (RUN / "run.json").unlink()
    os.mkfifo(RUN / "run.json")
    (RUN / "test_metrics.json").unlink()
    (RUN / "test_metrics.json").symlink_to("/dev/zero")
    monkeypatch.setattr("kindling.runs.text_files.MAX_BYTES", 10)
    assert kindling("runs").code == 0
    assert kindling("runs", "show", RUN).code == 0


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize("text", [LAUGHS, "a: &a [*a]\n"])
def test_yaml_aliases_in_a_foreign_configuration_do_not_expand(kindling: Command, trained: Train, text: str) -> None:
    trained(*TINY)
    CONFIG.write_text(text)
    result = kindling("test", "--ckpt_path", "last")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{CONFIG} is a configuration of more than 100,000 values" in result.err
    assert kindling("runs", "show", RUN).code == 0


def test_values_of_other_types_in_a_checkpoint_are_named(trained: Train) -> None:
    trained(*TINY)
    stored = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    altered = {"hyper_parameters": "x", "state_dict": [1], "global_step": "x", "datamodule_hyper_parameters": 5}
    for part, value in altered.items():
        torch.save(stored | {part: value}, "changed.ckpt")
        with pytest.raises(ValueError, match=r"changed\.ckpt "):
            read_checkpoint(Path("changed.ckpt"))


@pytest.mark.parametrize(("part", "value"), [("loops", {}), ("optimizer_states", [1])])
def test_a_state_that_cannot_be_restored_is_named(kindling: Command, trained: Train, part: str, value: object) -> None:
    trained(*TINY)
    change_checkpoint(lambda stored: stored.update({part: value}))
    result = kindling(*MORE)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "last.ckpt was modified or is of another version: it can't be restored" in result.err


TABLE = (
    "fit --model MLPClassifier --model.hidden [4] --data TableDataModule --data.target y --trainer.max_epochs 1".split()
)
TABLE += ["--run_name", "tiny", "--test_after_fit", "false"]
FILES = {"path": "secret.csv", "test_path": "tests.csv", "split": "list.csv"}


def table(path: str) -> None:
    rows = pd.DataFrame({"x": np.arange(60) % 7, "z": np.arange(60) % 5 / 2, "y": np.arange(60) % 2})
    rows.to_csv(path, index=False)


@pytest.fixture
def others_table(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create secret.csv and a run of another user that was trained on it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "theirs")
    table("secret.csv")
    assert kindling(*TABLE, "--data.path", "secret.csv").code == 0
    monkeypatch.setenv("XDG_CONFIG_HOME", "mine")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("command", "lone"),
    [("fit", False), ("validate", False), ("test", False), ("predict", False), ("fit", True), ("test", True)],
)
def test_the_data_of_a_foreign_run_must_be_typed(
    kindling: Command, others_table: None, command: str, lone: bool
) -> None:
    where, source = (RUN, CONFIG)
    if lone:
        where = source = Path("lone.ckpt")
        shutil.copy(RUN / "checkpoints" / ("last.ckpt" if command == "fit" else "best.ckpt"), where)
    more = ["--trainer.max_epochs", "2"] if command == "fit" else []
    before = files()
    result = kindling(command, "--ckpt_path", where, *more)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    line = f"{source} is from elsewhere, so the files in it are not read; add --data.path secret.csv\n"
    assert result.err.endswith(line)
    assert files() == before
    option = {"test": ["--data.path=secret.csv"], "predict": ["--data.init_args.path", "secret.csv"]}
    result = kindling(command, "--ckpt_path", where, *more, *option.get(command, ["--data.path", "secret.csv"]))
    assert result.code == 0, result.err


@pytest.mark.slow
def test_the_data_of_a_foreign_run_may_come_from_a_typed_config(kindling: Command, others_table: None) -> None:
    Path("mine.yaml").write_text("data: {class_path: TableDataModule, init_args: {path: secret.csv, target: y}}\n")
    result = kindling("test", "--ckpt_path", RUN, "--config", "mine.yaml")
    assert result.code == 0, result.err


@pytest.mark.slow
def test_a_foreign_run_predicts_new_rows_without_its_data(kindling: Command, others_table: None) -> None:
    Path("secret.csv").rename("new.csv")
    result = kindling("predict", "--ckpt_path", RUN, "--data.predict", "new.csv")
    assert result.code == 0, result.err
    assert load(RUN).predict("new.csv").probabilities.shape == (60, 2)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", FILES)
def test_each_file_named_in_a_foreign_configuration_must_be_typed(
    kindling: Command, others_table: None, name: str
) -> None:
    table("tests.csv")
    (RUN / "split.csv").rename("list.csv")
    change_config(lambda config: config["data"]["init_args"].update({name: FILES[name]}))
    typed = [] if name == "path" else ["--data.path", "secret.csv"]
    result = kindling("test", "--ckpt_path", RUN, *typed)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"the files in it are not read; add --data.{name} {FILES[name]}\n" in result.err


@pytest.mark.slow
def test_data_inside_a_foreign_run_folder_is_read(kindling: Command, others_table: None) -> None:
    Path("secret.csv").rename(RUN / "rows.csv")
    change_config(lambda config: config["data"]["init_args"].update(path=str(RUN / "rows.csv")))
    assert kindling("test", "--ckpt_path", RUN).code == 0
    table("secret.csv")
    (RUN / "rows.csv").unlink()
    (RUN / "rows.csv").symlink_to(Path("secret.csv").absolute())
    result = kindling("test", "--ckpt_path", RUN)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{RUN / 'rows.csv'} is a link out of a run folder" in result.err


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("change", ["moved", "lone", "no config", "edited config"])
def test_the_data_of_a_run_of_this_user_is_found(kindling: Command, change: str) -> None:
    table("rows.csv")
    assert kindling(*TABLE, "--data.path", "rows.csv").code == 0
    where = RUN
    if change == "moved":
        where = RUN.rename("moved")
    elif change == "lone":
        where = (RUN / "checkpoints/best.ckpt").rename("lone.ckpt")
    elif change == "no config":
        CONFIG.unlink()
    else:
        CONFIG.write_text(CONFIG.read_text().replace("batch_size: 64", "batch_size: 32"))
        assert not is_own(CONFIG)
    for command in ("test", "predict"):
        result = kindling(command, "--ckpt_path", where)
        assert result.code == 0, result.err


def test_a_modified_checkpoint_is_not_trusted(kindling: Command) -> None:
    table("rows.csv")
    table("other.csv")
    assert kindling(*TABLE, "--data.path", "rows.csv").code == 0
    path = change_checkpoint(lambda stored: stored["datamodule_hyper_parameters"].update(path="other.csv"), "best")
    path.rename("lone.ckpt")
    result = kindling("test", "--ckpt_path", "lone.ckpt")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "lone.ckpt is from elsewhere, so the files in it are not read; add --data.path other.csv" in result.err


def test_a_foreign_run_downloads_nothing(
    kindling: Command, trained: Train, mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ["--data", "MNISTDataModule", "--data.source", "FashionMNIST", "--data.val_split", "40"]
    trained(*TINY[:4], *mine, "--data.data_dir", mnist, *TINY[-4:])
    change_config(lambda config: config["data"]["init_args"].update(data_dir="data"))
    monkeypatch.setattr("kindling.data.mnist.MNISTDataModule._torchvision_dataset", None)
    change_checkpoint(lambda stored: stored.update(signature="0"), "best")
    for options in ([], ["--data.data_dir", "empty"]):
        result = kindling("test", "--ckpt_path", RUN, *options)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "train-images-idx3-ubyte not found: set --data.data_dir, or add --data.download true" in result.err
        assert not Path("data").exists()


PACKAGE = EVIL.format(base="MLPClassifier")


@pytest.mark.parametrize("place", [".", "lib"])
def test_a_package_around_a_lone_checkpoint_is_not_imported(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    trained(*TINY)
    monkeypatch.syspath_prepend(str(Path(place).absolute()))
    package = Path(place, "strange")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE)
    path = change_checkpoint(lambda stored: stored["hyper_parameters"].update(_class_path="strange.Evil"), "best")
    path = path.rename(package / "model.ckpt")
    for command in ("test", "predict"):
        result = kindling(command, "--ckpt_path", path)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "refusing to import class strange.Evil: its code is in the run folder" in result.err
    with pytest.raises(ValueError, match="its code is in the run folder"):
        load(path)
    assert not Path("ran").exists()


def test_an_installed_package_may_contain_a_checkpoint(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    site, source = Path("site").absolute(), Path("source").absolute()
    site.mkdir()
    (site / "project.pth").write_text(f"{source}\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(site))
    for place, name in ((site, "installed"), (source, "editable")):
        monkeypatch.syspath_prepend(str(place))
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(PACKAGE)
        stored = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
        stored["hyper_parameters"]["_class_path"] = f"{name}.Evil"
        torch.save(stored, place / name / "model.ckpt")
        assert load(place / name / "model.ckpt").card.model == "Evil"


IMPORTER = """
from importlib import import_module
from kindling import MLPClassifier
class Importer(MLPClassifier):
    def __init__(self, layer: str = "torch.nn.ReLU", **recipe):
        super().__init__((8,), **recipe)
        module, _, name = layer.rpartition(".")
        getattr(import_module(module), name)
"""


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("command", ["test", "fit", "load"])
@pytest.mark.parametrize(("layer", "allowed"), [("loose.thing", False), ("os.system", False), ("torch.nn.GELU", True)])
def test_a_model_imports_no_names_from_a_foreign_checkpoint(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch, command: str, layer: str, allowed: bool
) -> None:
    trained(*TINY)
    Path("library").mkdir()
    Path("library/importing.py").write_text(IMPORTER)
    Path("library/loose.py").write_text(LOOSE + "thing = 1\n")
    monkeypatch.syspath_prepend(str(Path("library").absolute()))
    monkeypatch.delitem(sys.modules, "importing", raising=False)

    def change(stored: dict[str, Any]) -> None:
        stored["hyper_parameters"].pop("hidden")
        stored["hyper_parameters"].update(_class_path="importing.Importer", layer=layer)

    CONFIG.unlink()
    paths = [change_checkpoint(change, name) for name in ("best", "last")]
    line = f"is from elsewhere and names {layer} as layer of its Importer: it was not imported"
    if command == "load":
        if allowed:
            assert load(paths[0]).card.model == "Importer"
        else:
            with pytest.raises(ValueError, match=line):
                load(paths[0])
    else:
        options = [
            *(MORE if command == "fit" else ["test", "--ckpt_path", "best"]),
            "--trainer.enable_model_summary=false",
        ]
        result = kindling(*options)
        assert (result.code, line in result.err) == ((0, False) if allowed else (1, True)), result.err
        if not allowed:
            assert kindling(*options, "--model.layer", "torch.nn.ReLU").code == 0
    assert not Path("ran").exists()


@pytest.mark.parametrize("lone", [False, True])
def test_a_config_that_links_out_of_the_run_is_refused(kindling: Command, trained: Train, lone: bool) -> None:
    trained(*TINY)
    Path("secret").write_text("data: secret\n")
    config, where = CONFIG, RUN
    if lone:
        where = (RUN / "checkpoints/best.ckpt").rename("model.ckpt")
        config = Path("model/config.yaml")
        config.parent.mkdir()
    config.unlink(missing_ok=True)
    config.symlink_to(Path("secret").absolute())
    result = kindling("test", "--ckpt_path", where)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{config} is a link out of a run folder" in result.err


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", ["train", "test", "checkpoints/last.ckpt", "notes"])
def test_links_in_a_returned_run_of_this_user_are_not_followed(kindling: Command, name: str) -> None:
    assert kindling("fit", *TINY, "--test_after_fit", "false").code == 0
    theirs = Path("theirs/version_0")
    shutil.copytree(RUN, theirs)  # the other user returns the run
    OUTSIDE.mkdir()
    if (theirs / name).is_dir():
        shutil.rmtree(theirs / name)
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(OUTSIDE.absolute())
    assert is_own(theirs / "config.yaml")
    for command in ("fit", "test"):
        result = kindling(command, "--ckpt_path", theirs, *(MORE[3:] if command == "fit" else []))
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert f"{theirs / name} is a link out of a run folder from elsewhere" in result.err
    assert not list(OUTSIDE.iterdir())
