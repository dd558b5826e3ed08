"""Plug-ins: installed packages (real metadata on `sys.path`) and files given with `--plugin`."""

import shutil
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import yaml
from servers import serving

from conftest import TINY, Command
from kindling import load
from kindling.cli.commands import COMMANDS
from kindling.utils import plugins, text
from kindling.utils.plugins import import_plugins, split_options

MODELS = '''
import torch
from lightning.pytorch import Callback
from torch import nn
from kindling import ClassificationTask, SyntheticDataModule


class LeafNet(ClassificationTask):
    """A network for leaves."""

    def __init__(self, width: int = 8, **recipe):
        super().__init__(**recipe)
        self.network = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, self.num_classes))


class LeafDataModule(SyntheticDataModule):
    """Leaves."""


class LeafCallback(Callback):
    """Prints."""

    def on_train_start(self, trainer, pl_module):
        print("leaves are trained")


class LeafSGD(torch.optim.SGD):
    """Stochastic gradient descent for leaves."""
'''
SMALL = TINY[TINY.index("--data.num_samples") :]
LEAF = ["--model", "LeafNet", "--data", "LeafDataModule", *SMALL, "--test_after_fit", "false"]
RUN = Path("runs/tiny/version_0")


def write_file(text: str = MODELS, name: str = "my_models.py") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def install(package: str, text: str = MODELS, distribution: str = "", module: str = "") -> Path:
    """Install a package into a folder on `sys.path`, with the metadata that pip would write."""
    site = Path("site").absolute()
    write_file(text, f"site/{package}/__init__.py")
    about = site / f"{(distribution or package).replace('-', '_')}-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or package}\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text(f"[kindling.plugins]\n{package} = {module or package}\n")
    sys.path.insert(0, str(site))
    return site


def uninstall(site: Path) -> None:
    shutil.rmtree(site)
    sys.path.remove(str(site))
    for package in ("leafnet", "leafnet.models"):
        sys.modules.pop(package, None)
    plugins.LOADED.clear()


def test_classes_of_an_installed_package_have_short_names_in_every_command(kindling: Command) -> None:
    install("leafnet")
    more = ["--trainer.callbacks+=LeafCallback", "--model.optimizer", "LeafSGD", "--model.optimizer.lr", "0.1"]
    fit = kindling("fit", *LEAF, *more)
    assert fit.code == 0, fit.err
    assert "leaves are trained" in fit.out
    assert "LeafNet, 195 parameters" in fit.out
    assert "--plugin" not in fit.out
    settings = yaml.safe_load((RUN / "config.yaml").read_text())
    assert settings["model"]["class_path"] == "leafnet.LeafNet"
    assert settings["model"]["init_args"]["optimizer"]["class_path"] == "leafnet.LeafSGD"
    for command in ("validate", "test", "predict", "fit"):
        result = kindling(command, "--ckpt_path", RUN, *(["--trainer.max_epochs", 3] if command == "fit" else []))
        assert result.code == 0, result.err
    assert "leaves are trained" in result.out
    assert load(RUN).card.model == "LeafNet"


@pytest.mark.slow
def test_classes_of_an_installed_package_are_in_help_pages_and_suggestions(kindling: Command) -> None:
    install("leafnet")
    shown = "".join(kindling("fit", "--help").out.split())
    for name in ("LeafNet", "LeafDataModule"):
        assert name in shown
    assert "--model.width" in kindling("fit", "--model.help", "LeafNet").out
    for option, wrong, right in [
        ("--model", "LeafNett", "LeafNet"),
        ("--data", "LeafDataModul", "LeafDataModule"),
        ("--trainer.callbacks+", "LeafCalback", "LeafCallback"),
        ("--model.optimizer", "LeafSDG", "LeafSGD"),
    ]:
        result = kindling("fit", *LEAF, f"{option}={wrong}")
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert f"did you mean {right}?" in result.err


def test_a_module_of_a_package_may_be_the_entry_point(kindling: Command) -> None:
    install("leafnet", "", module="leafnet.plugin")
    write_file(MODELS, "site/leafnet/models.py")
    write_file("from leafnet import models\n", "site/leafnet/plugin.py")
    result = kindling("fit", *LEAF, "--trainer.fast_dev_run", "true")
    assert result.code == 0, result.err


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("command", ["test", "export", "fit", "load"])
def test_a_checkpoint_names_the_package_that_is_missing(kindling: Command, command: str) -> None:
    site = install("leafnet", distribution="leaf-net")
    assert kindling("fit", *LEAF).code == 0
    uninstall(site)
    line = "needs leafnet.LeafNet from a plug-in that is missing: install the package leaf-net that has it"
    if command == "load":
        with pytest.raises(ValueError, match=line):
            load(RUN)
        return
    result = kindling(command, "--ckpt_path", RUN)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert line in result.err


def test_a_callback_that_is_missing_is_named_where_its_run_resumes(kindling: Command) -> None:
    write_file()
    assert kindling("fit", "--plugin", "my_models.py", *TINY, "--trainer.callbacks+=LeafCallback").code == 0
    more = ["fit", "--ckpt_path", RUN, "--trainer.max_epochs", 3]
    result = kindling(*more)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "my_models.LeafCallback from a plug-in that is missing: add --plugin my_models.py" in result.err
    assert kindling("test", "--ckpt_path", RUN).code == 0  # where it is not needed
    assert "leaves are trained" in kindling(*more, "--plugin", "my_models.py").out


@pytest.mark.slow
def test_a_file_is_given_with_every_command(kindling: Command) -> None:
    plugin = ["--plugin", write_file(name="mine/my_models.py")]
    fit = kindling("fit", *plugin, *LEAF, "--trainer.callbacks+=LeafCallback")
    assert fit.code == 0, fit.err
    assert "leaves are trained" in fit.out
    assert f"predict --ckpt_path {RUN} --plugin mine/my_models.py" in fit.out  # the next command
    for command in ("test", "validate", "predict"):
        assert kindling(command, "--ckpt_path", RUN, *plugin).code == 0
        result = kindling(command, "--ckpt_path", RUN)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "my_models.LeafNet from a plug-in that is missing: add --plugin my_models.py" in result.err
    assert load(RUN, plugins=["mine/my_models.py"]).card.model == "LeafNet"
    shown = kindling("runs", "show", "tiny", *plugin).out
    assert f"fit --config {RUN}/config.yaml --plugin mine/my_models.py" in shown


@pytest.mark.slow
@pytest.mark.usefixtures("quick_proof")
def test_a_file_is_exported(kindling: Command) -> None:
    write_file()
    assert kindling("fit", "--plugin", "my_models.py", *LEAF).code == 0
    result = kindling("export", "--plugin=my_models.py", "--ckpt_path", RUN, "--format", "torch_export")
    assert result.code == 0, result.err


@pytest.mark.slow
def test_a_file_is_served_by_workers(kindling: Command) -> None:
    write_file()
    assert kindling("fit", "--plugin", "my_models.py", *LEAF).code == 0
    options = ["--ckpt_path", RUN, "--workers", 2]
    with serving(*options, "--plugin", "my_models.py") as server:
        assert server.ask("GET", "/info")[1]["model"] == "LeafNet"
    assert "add --plugin my_models.py" in kindling("serve", *options).err


@pytest.mark.slow
def test_several_files_and_modules_can_be_given(kindling: Command) -> None:
    write_file()
    write_file("from my_layers import Leaf2Net\n", "other/more.py")
    write_file("from my_models import LeafNet\nclass Leaf2Net(LeafNet): pass\n", "other/my_layers.py")
    write_file("from my_models import LeafNet\nclass Leaf3Net(LeafNet): pass\n", "site/leaftools/__init__.py")
    sys.path.append(str(Path("site").absolute()))
    both = ["--plugin", "my_models.py", "--plugin", "other/more.py", "--plugin", "leaftools"]
    for model in ("Leaf2Net", "Leaf3Net"):
        result = kindling("fit", *both, "--model", model, *LEAF[2:], "--trainer.fast_dev_run", "true")
        assert result.code == 0, result.err


def test_every_help_page_names_the_option(kindling: Command) -> None:
    assert "options of all commands except runs and new:\n  --plugin FILE" in kindling("--help").out
    for command in COMMANDS:
        named = "--plugin FILE" in kindling(command, "--help").out
        assert named == (command not in ("runs", "new")), command


def test_other_options_are_not_changed() -> None:
    others = ["--model.optimizer.lr", "-1", "--config=a b.yaml", "--trainer.plugins", "x", "--", "-c", "{a: 1}"]
    assert split_options(["--plugin", "a.py", *others[:5], "--plugin=b.py", *others[5:]])[0] == ["a.py", "b.py"]
    assert split_options(others[:5])[1] == others[:5]
    assert split_options(["--trainer.callbacks+=A", "--plugin", "a.py", "-h"])[1] == ["--trainer.callbacks+=A", "-h"]


SAME = MODELS.replace("LeafNet", "MLPClassifier").replace("LeafDataModule", "DigitsDataModule")
SAME_OPTIONS = ["--model", "MLPClassifier", "--data", "DigitsDataModule", *SMALL, "--trainer.fast_dev_run", "true"]


def test_plugins_win_over_classes_of_the_engine_with_the_same_name(kindling: Command) -> None:
    site = install("leafnet", SAME)
    result = kindling("fit", *SAME_OPTIONS)
    assert result.code == 0, result.err
    assert "MLPClassifier, 195 parameters" in result.out
    write_file(SAME.replace("width: int = 8", "width: int = 4"))  # --plugin takes precedence over installed packages
    result = kindling("fit", *SAME_OPTIONS, "--plugin", "my_models.py")
    assert "MLPClassifier, 99 parameters" in result.out
    Path("recipe.yaml").write_text("model: {class_path: MLPClassifier}\ndata: {class_path: DigitsDataModule}\n")
    assert "195 parameters" in kindling("fit", "--config", "recipe.yaml", *SAME_OPTIONS[4:]).out
    engine = ["--model", "kindling.MLPClassifier", "--model.hidden", "[8]", *SAME_OPTIONS[2:]]
    assert "MLPClassifier, 195 parameters" in kindling("fit", *engine).out
    uninstall(site)


@pytest.mark.slow
def test_two_plugins_with_a_class_of_the_same_name_need_its_full_path(kindling: Command) -> None:
    write_file()
    write_file(name="other/your_models.py")
    both = ["--plugin", "my_models.py", "--plugin", "other/your_models.py"]
    result = kindling("fit", *both, *LEAF)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "my_models.LeafNet, your_models.LeafNet" in result.err
    full = ["--model", "your_models.LeafNet", "--data", "my_models.LeafDataModule", *LEAF[4:]]
    assert kindling("fit", *both, *full, "--trainer.fast_dev_run", "true").code == 0


BROKEN = {
    "import gone_thing\n": ["broken.py can't be imported", "No module named 'gone_thing'", "broken.py, line 1"],
    "x = 1\ny = (\n": ["broken.py can't be imported", "SyntaxError", "broken.py, line 2"],
    "def f():\n    return 1 / 0\nf()\n": ["broken.py can't be imported: ZeroDivisionError", "broken.py, line 2"],
    "raise SystemExit(3)\n": ["broken.py can't be imported: SystemExit"],
    "from kindling import ClassificationTask\n": ["broken.py has no model, data module or callback"],
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_ends_in_one_line(kindling: Command, text: str) -> None:
    write_file(text, "broken.py")
    result = kindling("fit", "--plugin", "broken.py", *TINY)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    for part in BROKEN[text]:
        assert part in result.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_package_stops_only_commands_that_need_classes(kindling: Command, text: str) -> None:
    install("leafnet", text, distribution="leaf-net")
    result = kindling("fit", *TINY)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the plug-in leaf-net " in result.err
    for command in (["--help"], ["runs"], ["runs", "--plugin", "broken.py"], ["--version"]):
        assert kindling(*command).code == 0


WRONG = {
    "--plugin my_model.py": "there is no file my_model.py: did you mean my_models.py?",
    "--plugin my_models": "there is no module my_models: did you mean my_models.py?",
    "--plugin gone.models": "there is no module gone: name a file or an installed module",
    "--plugin": "--plugin needs a value",
    "--plugin random.py": "another module is called random: rename the file",
    "--plugin torch.py": "another module is called torch: rename the file",
    "--plugin my-models.py": "rename the file so that Python can import it",
    "--plugin class.py": "rename the file so that Python can import it",
    "--plugin other": "there is no module other",
    "--plugin my_models.py --plugin other/my_models.py": "two files are called my_models.py",
}


@pytest.mark.parametrize("options", WRONG)
def test_a_plugin_with_an_invalid_name_ends_in_one_line(kindling: Command, options: str) -> None:
    for name in ("my_models.py", "random.py", "torch.py", "my-models.py", "class.py", "other/my_models.py"):
        write_file(name=name)
    result = kindling("fit", *options.split(), *(TINY if options != "--plugin" else []))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert WRONG[options] in result.err


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("LeafNet", "model: there is no model LeafNet: add custom classes with --plugin FILE"),
        ("my_models.LeafNet", "there is no module my_models for my_models.LeafNet: add --plugin my_models.py"),
        ("__main__.LeafNet", "model: there is no class __main__.LeafNet"),
    ],
)
def test_a_class_without_its_plugin_says_how_to_add_it(kindling: Command, model: str, line: str) -> None:
    write_file()
    result = kindling("fit", "--model", model, "--data", "SyntheticDataModule")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert line in result.err


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--model WideNet", "there is no model WideNet: did you mean leafnet.wide.WideNet?"),
        ("--model WideNett", "there is no model WideNett: did you mean leafnet.wide.WideNet?"),
        (
            "--data ShadesDataModule",
            "no data source ShadesDataModule: did you mean leafnet.more.shades.ShadesDataModule?",
        ),
        ("--trainer.callbacks WeightNorm", "there is no class WeightNorm: did you mean leafnet.more.WeightNorm?"),
        ("--model leafnet.wide.Wide", "there is no class leafnet.wide.Wide: did you mean leafnet.wide.WideNet?"),
        ("--model leafnet.wide.Widenet", "there is no class leafnet.wide.Widenet: did you mean leafnet.wide.WideNet?"),
        ("--model leafnet.WideNet", "there is no class leafnet.WideNet: did you mean leafnet.wide.WideNet?"),
        ("--model leafnet.LeafNett", "there is no class leafnet.LeafNett: did you mean leafnet.LeafNet?"),
        ("--model leafnet.wyde.WideNet", "there is no module leafnet.wyde: did you mean leafnet.wide.WideNet?"),
        ("--model leafnet.gone.Zzz", "there is no module leafnet.gone\n"),
        (
            "--model leafnet.broken.Wid",
            "leafnet.broken can't be imported: SyntaxError: '(' was never closed (broken",
        ),
        (
            "--model leafnet.lacks.Wid",
            "leafnet.lacks can't be imported: ModuleNotFoundError: No module named 'leafnet.",
        ),
        ("--model.optimizer torch.optim.Adamm", "there is no class torch.optim.Adamm: did you mean torch.optim.Adam?"),
    ],
)
def test_classes_that_a_package_does_not_import_are_suggested(kindling: Command, option: str, line: str) -> None:
    site = install("leafnet", MODELS)
    touch = "from pathlib import Path\nPath('ran').touch()\n"
    try:
        write_file("from leafnet import LeafNet\nclass WideNet(LeafNet):\n    pass\n", "site/leafnet/wide.py")
        write_file(f"{touch}class WeightNorm(Callback):\n    pass\n", "site/leafnet/more/__init__.py")
        write_file(f"{touch}class ShadesDataModule(X):\n    pass\n", "site/leafnet/more/shades.py")
        write_file("class Wid(", "site/leafnet/broken.py")
        write_file("import leafnet.x", "site/leafnet/lacks.py")
        result = kindling("fit", *LEAF, *option.split())
    finally:
        uninstall(site)
        sys.modules.pop("leafnet.wide", None)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert line in result.err
    assert not Path("ran").exists()


@pytest.mark.slow
def test_a_class_that_a_plugin_no_longer_has_is_named(kindling: Command) -> None:
    write_file()
    assert kindling("fit", "--plugin", "my_models.py", *LEAF).code == 0
    write_file(MODELS.replace("LeafNet", "OakNet"), "newer/my_models.py")
    result = kindling("test", "--plugin", "newer/my_models.py", "--ckpt_path", RUN)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "my_models.LeafNet" in result.err


# An untrusted run may not do this.
TOUCH = "from pathlib import Path\nPath('ran').touch()\n" + MODELS


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("given", [[], ["--plugin", "my_models.py"]])
def test_a_run_imports_no_file_that_was_not_given(kindling: Command, given: list[str]) -> None:
    write_file()
    assert kindling("fit", "--plugin", "my_models.py", *LEAF).code == 0
    (RUN / "config.yaml").unlink()
    write_file(TOUCH, "beside.py")
    path = RUN / "checkpoints" / "best.ckpt"
    stored = torch.load(path, weights_only=True)
    stored["hyper_parameters"]["_class_path"] = "beside.LeafNet"
    stored["datamodule_hyper_parameters"]["_class_path"] = "beside.LeafDataModule"
    stored["plugins"] = {"beside": "--plugin x.py; rm -rf /"}
    torch.save(stored, path)
    for command in ("test", "export", "fit"):
        result = kindling(command, *given, "--ckpt_path", path)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "beside.LeafNet from a plug-in that is missing: add --plugin beside.py, or install" in result.err
    assert not Path("ran").exists()
    assert kindling("test", *given, "--plugin", "beside.py", "--ckpt_path", path).code == 0
    assert Path("ran").exists()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("stored", ["pip install evil-pkg", "evil-pkg", "--plugin evil.py"])
def test_only_a_checkpoint_of_this_user_suggests_its_plugin(kindling: Command, stored: str, own: bool) -> None:
    site = install("leafnet")
    assert kindling("fit", *LEAF).code == 0
    uninstall(site)
    path = RUN / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["plugins"] = {"leafnet": stored}
    if not own:
        checkpoint["signature"] = "0" * 64
    torch.save(checkpoint, path)
    unknown = "add --plugin leafnet.py, or install the package leafnet that has it"
    known = "add --plugin evil.py" if "--plugin" in stored else "install the package evil-pkg that has it"
    for command in ("test", "export", "fit"):
        result = kindling(command, "--ckpt_path", path)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert result.err.endswith(f"from a plug-in that is missing: {known if own else unknown}\n")
        assert "pip install" not in result.err


def test_a_configuration_cannot_load_a_plugin(kindling: Command) -> None:
    write_file(TOUCH)
    Path("recipe.yaml").write_text("plugin: my_models.py\n")
    result = kindling("fit", "--config", "recipe.yaml", *TINY)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "plugin" in result.err
    assert not Path("ran").exists()


def test_spawned_processes_import_what_a_file_imports() -> None:
    """Spawned processes only inherit `sys.path`; data loaders spawn their workers on macOS and Windows."""
    write_file("def work(): pass\n", "mine/my_layers.py")
    write_file(MODELS + "from my_layers import work\n", "mine/my_models.py")
    import_plugins(["mine/my_models.py"])
    process = get_context("spawn").Process(target=sys.modules["my_models"].work)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_file_is_imported_once() -> None:
    write_file()
    import_plugins(["my_models.py"])
    module = sys.modules["my_models"]
    import_plugins([Path("my_models.py").absolute()])
    assert sys.modules["my_models"] is module


def test_a_project_calls_the_command_by_its_own_name(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_program_name", ["leafnet"])
    assert kindling("--help").out.startswith("usage: leafnet COMMAND")
    assert "kindling" not in kindling("--help").out
    assert kindling("fitt").err == "leafnet: error: there is no command fitt: did you mean fit?\n"
    assert "usage: leafnet fit [--config FILE ...]" in kindling("fit", "--help").out
    assert "usage: leafnet runs [FOLDER ...]" in kindling("runs", "--help").out
    assert "usage: leafnet export" in kindling("export", "--help").out
    assert "train one with leafnet fit" in kindling("test", "--ckpt_path", "best").err


@pytest.mark.slow
def test_a_command_under_another_name_trains_in_several_processes() -> None:
    write_file()
    script = Path("leafnet")
    script.write_text(f"#!{sys.executable}\nfrom kindling.cli.entry_point import program\nprogram()\n")
    script.chmod(0o755)
    options = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command = ["./leafnet", "fit", "--plugin", "my_models.py", *LEAF, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"leafnet predict --ckpt_path {RUN} --plugin my_models.py" in done.stdout
