"""The config and weights that a command takes from a checkpoint and its run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from kindling.cli.yaml_files import read_yaml
from kindling.data import BaseDataModule
from kindling.models.data_arguments import DATA_ARGUMENTS
from kindling.models.many_classes import MANY_CLASSES
from kindling.models.task import BaseTask
from kindling.runs.folders import is_in_run, run_folder_of, surroundings_of
from kindling.runs.signatures import is_own, is_own_checkpoint, plugin_sources
from kindling.runs.untrusted_config import check_class_paths, check_parts, class_paths, drop_unsafe
from kindling.runs.untrusted_files import check_factories, check_files, check_functions, typed_arguments
from kindling.utils.plugins import check_available

Config = dict[str, Any]


def config_from_checkpoint(
    checkpoint: Path, stored: dict[str, Any], command: str, typed: Sequence[str], recipes: Sequence[Config]
) -> Config:
    """Return the config with which a command uses a checkpoint.

    The model is that of the checkpoint. The rest comes from the `config.yaml` of the run; for a checkpoint outside a
    run, the data is that in the checkpoint. See `kindling.runs.untrusted_config` for the parts used from a run that was
    created elsewhere.

    Raises:
        ValueError: If the run was created elsewhere, and its config would run code or read files outside the run.
    """
    run_folder = run_folder_of(checkpoint)
    config, model = config_of_run(run_folder / "config.yaml"), class_config(stored["hyper_parameters"])
    _check_code(config, model, checkpoint, stored, command, typed_arguments("model", typed, recipes))
    arguments = stored.get("datamodule_hyper_parameters", {})
    source = run_folder / "config.yaml" if "data" in config else checkpoint
    if "data" not in config and "_class_path" in arguments:
        config["data"] = class_config(arguments)
    if "data" in config:
        if is_in_run(checkpoint):
            use_split_of_run(config["data"], run_folder)
        is_our_checkpoint = is_own_checkpoint(stored, checkpoint)
        if not (is_our_checkpoint if source == checkpoint else is_own(source)):
            data_typed = typed_arguments("data", typed, recipes)
            check_functions(config["data"], data_typed, source)
            known = arguments if is_our_checkpoint else {}
            check_files(config["data"], data_typed, run_folder, source, known, command)
    return _config_of_fit(config, model) if command == "fit" else _config_of_evaluation(config, model)


def config_of_run(path: Path) -> Config:
    """Return the `config.yaml` of a run, or its safe parts if it is another user's; empty if there is none."""
    config = read_yaml(path) if path.exists() and path.stat().st_size else {}
    return config if is_own(path) else drop_unsafe(config, path)


def _check_code(
    config: Config, model: Config, checkpoint: Path, stored: dict[str, Any], command: str, typed: set[str]
) -> None:
    """Raise ValueError if a checkpoint or its run names a class that may not be imported, or is not available."""
    plugins, surroundings = plugin_sources(stored, checkpoint), surroundings_of(checkpoint)
    check_class_paths(model, surroundings, plugins=plugins)
    data = [stored.get("datamodule_hyper_parameters", {}), config.get("data")]
    check_class_paths(data, surroundings, "data source", plugins)
    for name in class_paths(config) if command == "fit" else ():
        check_available(name, plugins)
    check_parts(stored["hyper_parameters"], checkpoint)
    if not is_own_checkpoint(stored, checkpoint):
        check_factories(stored["hyper_parameters"], checkpoint)
        check_functions(model, typed, checkpoint)


def use_split_of_run(data: Config, run_folder: Path) -> None:
    """Let a data module, whose config is changed in place, read its splits from the `split.csv` of a run, if any.

    This protects the test set: the rows that the run was trained on are never tested, even if the data or the seed has
    changed since.
    """
    split = run_folder / "split.csv"
    if split.exists():
        arguments = data["init_args"]
        if arguments.get("split") and not (arguments.get("groups") or arguments.get("time")):
            arguments.pop("labels", None)  # `fit` did not read them
        arguments["split"] = str(split)
        arguments.pop("fold", None)  # the file holds its rows


def _config_of_fit(config: Config, model: Config) -> Config:
    """Return the config with which `fit` resumes a run; the data module sets the model's arguments about the data."""
    given = (config.get("model") or {}).get("init_args") or {}
    for name in DATA_ARGUMENTS:
        if name not in given:
            model["init_args"].pop(name, None)
    return config | {"model": model}  # not the run's, which may need files such as initial weights


def _config_of_evaluation(config: Config, model: Config) -> Config:
    """Return the config of `validate`, `test` and `predict`, without the options that concern training."""
    if len(model["init_args"].get("class_names") or ()) > MANY_CLASSES:
        del model["init_args"]["class_names"]  # the parser would take long; the model gets those of the checkpoint
    trainer = {"devices": 1, "precision": config.get("trainer", {}).get("precision")}  # one device: the same metrics
    kept = {key: config[key] for key in ("data", "seed_everything") if key in config}
    return {"model": model, "trainer": trainer} | kept


def class_config(hyper_parameters: dict[str, Any]) -> dict[str, Any]:
    """Convert hyperparameters stored in a checkpoint to the form of a config: `class_path` and `init_args`."""
    init_args = {name: value for name, value in hyper_parameters.items() if not name.startswith("_")}
    return {"class_path": hyper_parameters["_class_path"], "init_args": init_args}


def load_checked_weights(
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
