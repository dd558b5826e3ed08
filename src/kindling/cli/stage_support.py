"""Find out whether a model and its data support validation, testing and prediction."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from kindling.utils.text import shorten

Model = LightningModule | type[LightningModule]
Data = LightningDataModule | type[LightningDataModule] | None


def has_stage(model: Model, data: Data, stage: str) -> bool:
    """Return whether a model and its data, or their classes, support a stage (val, test or predict)."""
    return not missing_methods(model, data, stage)


def missing_methods(model: Model, data: Data, stage: str) -> list[str]:
    """Return the methods missing for a stage (val, test or predict), each with its class.

    Examples:
        >>> missing_methods(LightningModule, LightningDataModule, "test")
        ['test_step in LightningModule', 'test_dataloader in LightningDataModule']
    """
    step, loader = "validation_step" if stage == "val" else f"{stage}_step", f"{stage}_dataloader"
    steps = [step, "forward"] if stage == "predict" else [step]  # Lightning's own predict_step calls forward
    has_step = any(is_overridden(each, model, LightningModule) for each in steps)
    has_loader = is_overridden(loader, model, LightningModule) or is_overridden(loader, data, LightningDataModule)
    owner = model if data is None else data
    return [f"{step} in {_name_of(model)}"] * (not has_step) + [f"{loader} in {_name_of(owner)}"] * (not has_loader)


def check_stage(command: str, model: LightningModule, data: LightningDataModule | None, stage: str) -> None:
    """Raise ValueError if a model or its data lacks a method that the stage of a command needs."""
    if missing := missing_methods(model, data, stage):
        raise ValueError(f"{command} needs {' and '.join(missing)}, which is missing: define it there")


@contextmanager
def explaining_forward(model: LightningModule) -> Iterator[None]:
    """Suggest a `predict_step` if the `forward` of a model fails on a whole batch."""
    try:
        yield
    except (TypeError, AttributeError, RuntimeError) as error:
        if is_overridden("predict_step", model, LightningModule):
            raise
        name = type(model).__name__
        raise ValueError(
            f"{name} has no predict_step, and its forward does not take a whole batch: define predict_step(self, "
            f"batch, batch_idx) in {name} ({shorten(str(error), 100)})"
        ) from error


def _name_of(one: object) -> str:
    return one.__name__ if isinstance(one, type) else type(one).__name__
