"""What was not typed: configuration from YAML files, and what a checkpoint and its run bring."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kindling.callbacks import RunEarlyStopping
from kindling.data import ClassificationDataModule
from kindling.errors import UsageError
from kindling.models.classifier import DATA_ARGUMENTS, Classifier
from kindling.plugins import check_available
from kindling.record import Record
from kindling.runs import is_last, read_checkpoint, run_of
from kindling.trust import check_classes, check_factories, check_parts, check_size, class_paths, harmless, is_own
from kindling.wording import did_you_mean


def read_yaml(config: Path) -> dict[str, Any]:
    """Reads a configuration.

    Raises:
        UsageError: If it is not there, with the nearest that is; or if it is no YAML, with the line. Of jsonargparse's
            own messages neither names them.
    """
    if not config.exists():
        there = map(str, [*Path("configs").rglob("*.yaml"), *config.parent.glob("*.yaml")])
        raise UsageError(f"there is no file {config}{did_you_mean(str(config), there)}")
    try:
        read: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{config} is no YAML{where}: {getattr(error, 'problem', error)}") from error
    try:
        check_size(read)
    except ValueError as error:
        raise UsageError(f"{config} is {error}") from error
    return read


def stored_config(checkpoint: Path, command: str, typed: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration with which a command uses a checkpoint.

    From the `config.yaml` of its run; for a file outside of a run, from what the checkpoint itself stores. See
    `kindling.trust` for what is used of a run that was not made here.

    Args:
        checkpoint: The checkpoint.
        command: fit, validate, test or predict.
        typed: The options that were typed.

    Raises:
        ValueError: If the run was not made here, and would run code or read files elsewhere.
    """
    stored = read_checkpoint(checkpoint, verify="metadata")
    run = run_of(checkpoint)
    path = run / "config.yaml"
    config = read_yaml(path) if path.exists() else {}
    is_ours = is_own(path)
    if not is_ours:
        config = harmless(config, path)
    model = class_config(stored["hyper_parameters"])
    plugins = stored.get("plugins") or {}
    check_classes(model, run, plugins=plugins)
    check_classes([stored.get("datamodule_hyper_parameters"), config.get("data")], run, "data source", plugins)
    for name in class_paths(config) if command == "fit" else ():
        check_available(name, plugins)
    check_parts(stored["hyper_parameters"], checkpoint)
    if not is_ours:
        check_factories(stored["hyper_parameters"], checkpoint)
    if "data" not in config and "_class_path" in stored.get("datamodule_hyper_parameters", {}):
        config["data"] = class_config(stored["datamodule_hyper_parameters"])
    if not is_ours and "data" in config:
        config["data"].get("init_args", {}).pop("predict", None)  # the samples to predict are typed
    split = run / "split.csv"
    if checkpoint.parent.name == "checkpoints" and split.exists() and "data" in config:
        config["data"]["init_args"]["split"] = str(split)  # what is tested was not trained on, whatever has come since
    elif not is_ours and "data" in config:
        check_reads(config["data"].get("init_args") or {}, checkpoint, typed)
    if command == "fit":
        for name in DATA_ARGUMENTS:
            model["init_args"].pop(name, None)  # the data module says them anew
        return config | {"model": model}  # of the checkpoint itself: it needs nothing that the first run began with
    # One device measures as well as several; the rest of the trainer was for training.
    trainer = {"devices": 1, "precision": config.get("trainer", {}).get("precision")}
    kept: dict[str, Any] = {key: config[key] for key in ("data", "seed_everything") if key in config}
    return {"model": model, "trainer": trainer} | kept


def check_reads(arguments: dict[str, Any], checkpoint: Path, typed: Sequence[str]) -> None:
    """Check that a configuration that was not written here names no split file, which was typed for another folder.

    Raises:
        ValueError: If it does, and no other is typed.
    """
    given = {option.split("=")[0] for option in typed}
    if (split := arguments.get("split")) is not None and given.isdisjoint(("--data.split", "--data")):
        raise ValueError(f"{checkpoint} names a split file outside of its run folder: --data.split {split} to use it")


def class_config(hyper_parameters: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters as a checkpoint stores them, in the form that a configuration has."""
    init_args = {name: value for name, value in hyper_parameters.items() if not name.startswith("_")}
    return {"class_path": hyper_parameters["_class_path"], "init_args": init_args}


def check_fits(model: Classifier, data: ClassificationDataModule, checkpoint: Path | None) -> None:
    """Puts the weights of a checkpoint into a model, and checks that data, model and checkpoint go together.

    Raises:
        ValueError: If they do not.
    """
    stored = read_checkpoint(checkpoint) if checkpoint else {}
    if checkpoint:  # Lightning does so too, but after the data has been read
        data.load_state_dict(stored.get(type(data).__qualname__, {}))
    if model.input_shape != data.input_shape:
        raise ValueError(f"the model takes inputs of shape {model.input_shape}, the data has {data.input_shape}")
    try:
        if checkpoint:
            model.load_state_dict(stored["state_dict"])
    except RuntimeError as error:
        name = stored["hyper_parameters"]["_class_path"].rsplit(".", 1)[-1]
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{checkpoint} holds another model, a {name}: {reason}") from error


def has_only_the_rest_left(checkpoint: Path, config: Mapping[str, Any]) -> bool:
    """Whether the training that a checkpoint resumes is complete, and only what follows it is missing.

    A run that was killed between its last epoch and the end of its test still lacks the test, and maybe its plots.

    Args:
        checkpoint: Where `fit` resumes.
        config: Its options.

    Raises:
        ValueError: If nothing is left to do, or training can't be resumed from the checkpoint.
    """
    stored, trainer = read_checkpoint(checkpoint, verify="metadata"), config["trainer"]
    if "optimizer_states" not in stored:
        raise ValueError(f"{checkpoint} holds only weights: training can't be resumed from it")
    epochs, most = epochs_had(stored), trainer["max_epochs"] or -1
    all_epochs = 0 <= most <= epochs
    unfinished = is_last(checkpoint) and not Record.read(run_of(checkpoint)).is_complete(config["test_after_fit"])
    if all_epochs and not unfinished:
        raise ValueError(f"{checkpoint} has already trained {epochs} epochs; raise --trainer.max_epochs to continue")
    all_steps = 0 <= trainer["max_steps"] <= stored["global_step"]
    if all_steps and not unfinished:
        steps = stored["global_step"]
        raise ValueError(f"{checkpoint} has been trained for its {steps} steps: ask for more with --trainer.max_steps")
    return unfinished and (all_epochs or all_steps or stopped_early(stored, config["early_stopping"]["patience"]))


STOPPERS = (f"{RunEarlyStopping.__qualname__}{{", "EarlyStopping{")  # the latter in checkpoints of older versions


def stopped_early(stored: Mapping[str, Any], patience: int | None) -> bool:
    """Whether early stopping ended the training of a checkpoint, and would do so with this patience too."""
    stoppers = [state for name, state in stored["callbacks"].items() if name.startswith(STOPPERS)]
    return patience is not None and any(state["wait_count"] >= patience for state in stoppers)


def epochs_had(stored: Mapping[str, Any]) -> int:
    """The epochs that a checkpoint was trained for; 0 where it does not say."""
    loops = stored.get("loops")
    return int(loops["fit_loop"]["epoch_progress"]["current"]["processed"]) if loops else 0
