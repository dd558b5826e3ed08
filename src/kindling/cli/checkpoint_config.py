"""The config and weights that a command takes from a checkpoint and its run."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from kindling.cli.yaml_files import read_yaml
from kindling.data import BaseDataModule
from kindling.models.many_classes import MANY_CLASSES
from kindling.models.task import DATA_ARGUMENTS, BaseTask
from kindling.runs.checkpoint_contents import EPOCHS, STOPPERS
from kindling.runs.folders import is_in_run, is_last, run_folder_of, surroundings_of
from kindling.runs.metadata import RunMetadata
from kindling.runs.signatures import is_own, is_own_checkpoint, plugin_sources
from kindling.runs.untrusted_config import check_class_paths, check_parts, class_paths, drop_unsafe
from kindling.runs.untrusted_files import check_factories, check_files, check_functions, typed_arguments
from kindling.utils.plugins import check_available
from kindling.utils.text import count_noun


def config_from_checkpoint(
    checkpoint: Path,
    stored: dict[str, Any],
    command: str,
    typed: Sequence[str] = (),
    configs: Sequence[Path] = (),
) -> dict[str, Any]:
    """Return the config with which a command uses a checkpoint.

    It comes from the `config.yaml` of the run; for a checkpoint outside a run, from the hyperparameters stored in it.
    See `kindling.runs.untrusted_config` for the parts used from a run that was created elsewhere.

    Args:
        checkpoint: Path of the checkpoint.
        stored: Contents of the checkpoint.
        command: fit, validate, test or predict.
        typed: Options on the command line.
        configs: Config files on the command line.

    Raises:
        ValueError: If the run was created elsewhere, and its config would run code or read files outside the run.
    """
    run, arguments = run_folder_of(checkpoint), stored.get("datamodule_hyper_parameters", {})
    path = run / "config.yaml"
    config = read_yaml(path) if path.exists() and path.stat().st_size else {}
    is_ours, is_our_checkpoint = is_own(path), is_own_checkpoint(stored, checkpoint)
    if not is_ours:
        config = drop_unsafe(config, path)
    model = class_config(stored["hyper_parameters"])
    plugins = plugin_sources(stored, checkpoint)
    check_class_paths(model, surroundings_of(checkpoint), plugins=plugins)
    check_class_paths([arguments, config.get("data")], surroundings_of(checkpoint), "data source", plugins)
    for name in class_paths(config) if command == "fit" else ():
        check_available(name, plugins)
    check_parts(stored["hyper_parameters"], checkpoint)
    if not is_our_checkpoint:
        check_factories(stored["hyper_parameters"], checkpoint)
        check_functions(model, typed_arguments("model", typed, configs), checkpoint)
    source = path if "data" in config else checkpoint
    if "data" not in config and "_class_path" in arguments:
        config["data"] = class_config(arguments)
    split = run / "split.csv"
    if is_in_run(checkpoint) and split.exists() and "data" in config:
        config["data"]["init_args"]["split"] = str(split)  # never test on training rows, even if the data has changed
        config["data"]["init_args"].pop("fold", None)  # the file holds its rows
    if "data" in config and not (is_ours if source == path else is_our_checkpoint):
        data_typed = typed_arguments("data", typed, configs)
        check_functions(config["data"], data_typed, source)
        known = arguments if is_our_checkpoint else {}
        check_files(config["data"], data_typed, run, source, known, command)
    if command == "fit":
        given = (config.get("model") or {}).get("init_args") or {}
        for name in DATA_ARGUMENTS:
            if name not in given:
                model["init_args"].pop(name, None)  # set again from the data module
        return config | {"model": model}  # not the run's, which may need files such as initial weights
    if len(model["init_args"].get("class_names") or ()) > MANY_CLASSES:
        del model["init_args"]["class_names"]  # the parser would take long; the model gets those of the checkpoint
    # One device gives the same metrics; all other Trainer options concern training.
    trainer = {"devices": 1, "precision": config.get("trainer", {}).get("precision")}
    kept: dict[str, Any] = {key: config[key] for key in ("data", "seed_everything") if key in config}
    return {"model": model, "trainer": trainer} | kept


def class_config(hyper_parameters: dict[str, Any]) -> dict[str, Any]:
    """Convert hyperparameters stored in a checkpoint to the form of a config: `class_path` and `init_args`."""
    init_args = {name: value for name, value in hyper_parameters.items() if not name.startswith("_")}
    return {"class_path": hyper_parameters["_class_path"], "init_args": init_args}


def load_weights(
    model: LightningModule, data: LightningDataModule | None, checkpoint: Path | None, stored: dict[str, Any]
) -> None:
    """Load the weights of a checkpoint into a model, and check that data, model and checkpoint match.

    Raises:
        ValueError: If they do not match.
    """
    if checkpoint and isinstance(data, BaseDataModule):  # Lightning does this only after the data is read
        data.load_state_dict(stored.get(type(data).__qualname__, {}))
    if isinstance(model, BaseTask) and isinstance(data, BaseDataModule):
        takes, has = model.input_shape, tuple(getattr(data, "input_shape", ()))
        if takes and has and takes != has:
            raise ValueError(f"the model takes inputs of shape {takes}, the data has {has}")
    if not checkpoint or is_overridden("configure_model", model):  # Lightning creates and loads the weights later
        return
    try:
        model.load_state_dict(stored["state_dict"], strict=model.strict_loading)
    except RuntimeError as error:
        name = stored["hyper_parameters"]["_class_path"].rsplit(".", 1)[-1]
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{checkpoint} contains a different model, {name}: {reason}") from error


class CompleteError(ValueError):
    """Nothing is left to train or to test."""


def is_training_complete(
    checkpoint: Path, stored: Mapping[str, Any], config: Mapping[str, Any], tests: bool, is_auto: bool
) -> bool:
    """Return whether a checkpoint is fully trained, so that only the plots and the test remain.

    This happens if a run is killed between its last epoch and the end of its test.

    Args:
        checkpoint: Checkpoint that `fit` resumes.
        stored: Contents of the checkpoint.
        config: Options of `fit`.
        tests: Whether `fit` tests the best checkpoint at the end.
        is_auto: Whether a run that early stopping has ended is complete too; otherwise it is trained on.

    Raises:
        CompleteError: If nothing is left to do.
        ValueError: If training can't be resumed from the checkpoint.
    """
    trainer = config["trainer"]
    if "optimizer_states" not in stored:
        raise ValueError(f"{checkpoint} contains only weights: training can't be resumed from it")
    epochs, most = epochs_completed(stored), trainer["max_epochs"] or -1
    all_epochs = 0 <= most <= epochs
    unfinished = is_last(checkpoint) and not RunMetadata.read(run_folder_of(checkpoint)).is_complete(tests)
    if all_epochs and not unfinished:
        done = count_noun(epochs, "epoch", "epochs")
        raise CompleteError(f"{checkpoint} was already trained for {done}; raise --trainer.max_epochs to continue")
    all_steps = 0 <= trainer["max_steps"] <= stored["global_step"]
    if all_steps and not unfinished:
        done = count_noun(stored["global_step"], "step", "steps")
        raise CompleteError(f"{checkpoint} was already trained for {done}; raise --trainer.max_steps to continue")
    has_stopped = stopped_early(stored, config["early_stopping"]["patience"])
    if is_auto and has_stopped and not unfinished:
        raise CompleteError(f"{checkpoint} was stopped early; raise --early_stopping.patience to continue")
    return unfinished and (all_epochs or all_steps or has_stopped)


def stopped_early(stored: Mapping[str, Any], patience: int | None) -> bool:
    """Return whether early stopping ended the training of a checkpoint, and still would with this patience."""
    stoppers = [state for name, state in stored["callbacks"].items() if name.startswith(STOPPERS)]
    return patience is not None and any(state["wait_count"] >= patience for state in stoppers)


def epochs_completed(stored: Mapping[str, Any]) -> int:
    """Return the number of epochs the checkpoint was trained for; 0 if not recorded."""
    loops = stored.get("loops")
    return int(reduce(getitem, EPOCHS, loops)) if loops else 0
