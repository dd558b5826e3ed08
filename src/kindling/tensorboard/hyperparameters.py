"""What one run differs from another by, for TensorBoard's HParams."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from kindling.models.task import DATA_ARGUMENTS

# What nobody compares runs by: where data is, how it is read, and what belongs to all runs.
PLACES = (
    "data_dir",
    "path",
    "predict",
    "split",
    "eval_batch_size",
    "num_workers",
    "memory_gb",
    "split_seed",
    "compile",
)
CROWD = ("balanced_accuracy", "f1")  # they say nearly the same as accuracy, and axes have little room
Value = float | str | bool


def collect_hparams(trainer: Trainer, model: LightningModule) -> dict[str, Value]:
    """The hyperparameters of a run: of the model, its optimizer and schedule, the data and the trainer."""
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
    # Numbers alone: the switches of an optimizer choose between ways to compute the same.
    found |= {name: value for name, value in optimizer["init_args"].items() if not isinstance(value, bool)}
    if (peak := schedule.get("init_args", {}).get("max_lr")) is not None:
        found["lr"] = peak  # OneCycleLR begins and ends far below it
    for arguments in (of_model, of_data):
        found |= {name: value for name, value in arguments.items() if not name.startswith("_")}
    return {
        name: _plain(value)
        for name, value in found.items()
        if value is not None and name not in (*DATA_ARGUMENTS, *PLACES)
    }


def write_hparams(writer: SummaryWriter, values: Mapping[str, Value], figures: Mapping[str, float], step: int) -> None:
    """Writes the hyperparameters of a run, and its figures.

    Without the list of all hyperparameters that torch's `add_hparams` writes beside them: of such lists TensorBoard
    takes the first for all runs, and hides what only others have.
    """
    _, start, end = hparams(dict(values), {})  # type: ignore[no-untyped-call]
    for summary in (start, end):
        writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]
    write_final_metrics(writer, figures, step)


def write_final_metrics(writer: SummaryWriter, figures: Mapping[str, float], step: int) -> None:
    """Writes the final figures of a run: `val/loss` as `result/val_loss`."""
    for name, value in figures.items():
        if not name.endswith(CROWD):
            writer.add_scalar(f"result/{name.replace('/', '_')}", value, step)
    writer.flush()


def _factory(value: Any, otherwise: str) -> dict[str, Any]:
    """Return an optimizer or schedule as class path and arguments; a plain LightningModule may not tell it so."""
    return {"init_args": {}} | (
        value if isinstance(value, dict) and "class_path" in value else {"class_path": otherwise}
    )


def _class_name(factory: Mapping[str, Any]) -> str:
    return str(factory["class_path"]).rsplit(".", 1)[-1]


def _plain(value: Any) -> Value:
    return value if isinstance(value, (bool, int, float, str)) else str(value).strip("[]()")
