"""Hyperparameters and final metrics of a run for TensorBoard's HParams tab."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from kindling.models.data_arguments import DATA_ARGUMENTS

# Not worth comparing: where the data is, how it is loaded, and what is equal in all runs.
IGNORED = (
    "data_dir",
    "labels",
    "path",
    "predict",
    "split",
    "eval_batch_size",
    "num_workers",
    "memory_gb",
    "split_seed",
    "compile",
)
REDUNDANT = ("balanced_accuracy", "f1")  # nearly equal to accuracy, and there is room for few axes
Value = float | str | bool


def collect_hparams(trainer: Trainer, model: LightningModule) -> dict[str, Value]:
    """Return the hyperparameters of the model, its optimizer and schedule, the data and the trainer."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    of_model, of_data = dict(model.hparams), dict(data.hparams) if data else {}
    optimizer = _factory(of_model.pop("optimizer", None), ", ".join(type(one).__name__ for one in trainer.optimizers))
    schedule = _factory(of_model.pop("lr_scheduler", None), "none")
    found = {
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": type(data).__name__,
        "optimizer": _class_name(optimizer),
        "lr_scheduler": _class_name(schedule),
        "max_epochs": trainer.max_epochs,
        "precision": trainer.precision,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val or 0,
        "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
    }
    # Without flags: those of an optimizer choose between implementations.
    found |= {name: value for name, value in optimizer["init_args"].items() if not isinstance(value, bool)}
    if (peak := schedule.get("init_args", {}).get("max_lr")) is not None:
        found["lr"] = peak  # OneCycleLR starts and ends far below it
    for arguments in (of_model, of_data):
        found |= {name: value for name, value in arguments.items() if not name.startswith("_")}
    return {
        name: _plain(value)
        for name, value in found.items()
        if value is not None and name not in (*DATA_ARGUMENTS, *IGNORED)
    }


def write_hparams(writer: SummaryWriter, values: Mapping[str, Value], metrics: Mapping[str, float], step: int) -> None:
    """Write the hyperparameters and final metrics of a run.

    Torch's `add_hparams` would also write a list of all hyperparameters. TensorBoard uses the first such list for all
    runs and hides hyperparameters that only other runs have.
    """
    write_final_metrics(writer, metrics, step)
    _, start, end = hparams(dict(values), {})  # type: ignore[no-untyped-call]
    for summary in (start, end):
        writer.file_writer.add_summary(summary, step)  # type: ignore[attr-defined]
    writer.flush()


def write_final_metrics(writer: SummaryWriter, metrics: Mapping[str, float], step: int) -> None:
    """Write the final metrics of a run: `val/loss` as `result/val_loss`."""
    for name, value in metrics.items():
        if not name.endswith(REDUNDANT):
            writer.add_scalar(f"result/{name.replace('/', '_')}", value, step)
    writer.flush()


def _factory(value: Any, otherwise: str) -> dict[str, Any]:
    """Return an optimizer or schedule as class path and arguments; a plain LightningModule may not have that form."""
    return {"init_args": {}} | (
        value if isinstance(value, dict) and "class_path" in value else {"class_path": otherwise}
    )


def _class_name(factory: Mapping[str, Any]) -> str:
    return str(factory["class_path"]).rsplit(".", 1)[-1]


def _plain(value: Any) -> Value:
    return value if isinstance(value, (bool, int, float, str)) else str(value).strip("[]()")
