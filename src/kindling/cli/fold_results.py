"""The report over all folds of a repeat, and the ensemble of their models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kindling.cli.entry_point import call, main
from kindling.runs.folders import ENSEMBLE, RUNS
from kindling.runs.repeats import Repeat
from kindling.utils.console import as_command, progress
from kindling.utils.files import atomic_write


def combine_folds(command: list[str]) -> int:
    """Write the report and the ensemble of a repeat into its folder, and return the exit code.

    Args:
        command: The folder, the command line for the report, and the options that name plug-ins.
    """
    folder, _, *plugins = command
    name = (Path(folder) / ENSEMBLE).relative_to(RUNS)
    code = call(_write_report, "repeat", command)
    code = code or main(["fit", f"--config={_recipe(Path(folder))}", f"--run_name={name}", *plugins])
    if code:
        for path in (_recipe(Path(folder)), _split(Path(folder))):
            path.unlink(missing_ok=True)
    return code


def predict_command(folder: Path) -> str:
    """Return the command that predicts new samples with the ensemble, which has no test split."""
    source = "FOLDER" if _split(folder).exists() else "FILE"
    return as_command("kindling", "predict --ckpt_path", folder, f"--data.predict {source}")


def _recipe(folder: Path) -> Path:
    return folder / f"{ENSEMBLE}.yaml"


def _split(folder: Path) -> Path:
    return folder / f"{ENSEMBLE}_split.csv"


def _write_report(_: str, command: Sequence[str]) -> None:
    """Write the report, and the recipe of the ensemble; the arguments are those of `combine_folds`."""
    from kindling.cli.checkpoint_config import class_config
    from kindling.evaluation.fold_outputs import write_single_split
    from kindling.evaluation.out_of_fold import OutOfFold
    from kindling.utils.plugins import load_plugins

    folder, typed, *plugins = command
    load_plugins(plugins)
    repeat = Repeat.read(Path(folder))
    assert repeat is not None
    runs = {name: run.path for name, run in repeat.runs().items()}
    with progress("writing the report"):
        tested = OutOfFold(runs)
        tested.write_report(repeat.path, typed)
    arguments: dict[str, Any] = {"checkpoints": tested.checkpoints}
    if threshold := tested.threshold:
        positive = tested.model.class_names[threshold.positive]
        arguments |= {"threshold": threshold.value, "positive_class": positive}
    elif (positive := tested.members[0].hparams.get("positive_class")) is not None:
        arguments["positive_class"] = positive
    split = None  # a table decides itself that no row is unseen by all members, which may encode it differently
    if "columns" not in tested.data.fitted:
        split = str(_split(repeat.path))
        write_single_split(next(iter(runs.values())) / "split.csv", Path(split), "train")
    data = class_config({**tested.data.hparams} | {"split": split})
    data["init_args"].pop("fold", None)
    model = {"class_path": type(tested.model).__name__, "init_args": arguments}
    with atomic_write(_recipe(repeat.path)) as path:
        header = f"# The mean prediction of the folds: kindling fit --config {_recipe(repeat.path)}\n"
        content = yaml.safe_dump({"model": model, "data": data, "test_after_fit": False}, sort_keys=False)
        path.write_text(header + content, encoding="utf-8")
