"""Ensembles of trained models."""

from collections.abc import Callable, Sequence
from statistics import geometric_mean
from typing import Any, Self

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from typing_extensions import override

from kindling.models.averages import mean_output, mean_probability, mean_sigmoid
from kindling.models.classification import ClassificationTask
from kindling.models.data_arguments import TARGETS
from kindling.models.loading import build_from_spec, is_model_spec, load_model, read_model_spec
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import RegressionTask
from kindling.models.target_info import StoredTarget
from kindling.models.task import BaseTask
from kindling.runs.checkpoints import read_checkpoint
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.utils.console import progress


class PredictionAveraging(nn.Module):
    """Average the predictions of several models, each of which takes raw inputs.

    Args:
        members: The models.
        widths: Number of features of each member, if the inputs (N, F) are the concatenated encodings of a row of a
            table for each member, see `data.tables.ensembles`; empty if each takes all inputs.
        average: Averages the outputs of the members, (members, N, ...).
    """

    def __init__(
        self, members: Sequence[nn.Module], widths: Sequence[int], average: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.widths = [*widths]
        self.average = average

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all members, (members, N, ...)."""
        parts = torch.split(inputs, self.widths, dim=1) if self.widths else [inputs] * len(self.members)
        return torch.stack([member(part) for member, part in zip(self.members, parts, strict=True)])

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return self.average(self.outputs(inputs))

    @override
    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # no dropout, frozen batch-norm statistics


def take_over_states(data: Any, checkpoints: Sequence[str]) -> None:
    """Let a data module take over what it learned for each member of an ensemble, such as the encoding of a table."""
    paths = [find_checkpoint(checkpoint) for checkpoint in checkpoints if not is_model_spec(checkpoint)]
    states = [read_checkpoint(path, verify_tensors=False).get(type(data).__qualname__) for path in paths]
    if states and all(states) and hasattr(data, "combine_fitted"):
        data.combine_fitted(states)


class EnsembleModel(BaseTask):
    """Averages the predictions of trained models; `fit` trains nothing. To be combined with a task.

    `fit` evaluates the ensemble and saves all members in one self-contained checkpoint. The rows of a table are encoded
    for each member as in its training.

    Args:
        checkpoints: The members: run folders or checkpoints of models with the same task, input shape and classes.
        **kwargs: See the task; training options have no effect.

    Raises:
        ValueError: If there are no members, or their tasks, input shapes, classes or targets differ.
    """

    average: Callable[[Tensor], Tensor]  # of the outputs of the members; set by subclasses

    def __init__(self, checkpoints: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not checkpoints:
            raise ValueError("an ensemble needs members: give at least one with --model.checkpoints")
        self._targets: dict[str, StoredTarget] = {}  # by checkpoint; none once the ensemble is loaded itself
        with progress(f"building {len(checkpoints)} members", len(checkpoints)) as done:
            specs, members = zip(*(self._load_member(checkpoint, done) for checkpoint in checkpoints), strict=True)
        widths = self._widths(members)
        ours = self._signature(self)
        for checkpoint, member in zip(checkpoints, members, strict=True):
            theirs = self._signature(member)
            if theirs[1:] != ours[1:] or (not widths and theirs != ours):
                raise ValueError(f"member {checkpoint} has another input shape or other classes: {theirs}, not {ours}")
        self.hparams["checkpoints"] = list(specs)
        self.network = PredictionAveraging(members, widths, self.average).requires_grad_(False)
        self.mean.zero_()
        self.std.fill_(1)  # each member normalizes its inputs itself

    @override
    @classmethod
    def for_data(cls, data: LightningDataModule, **arguments: Any) -> Self:
        take_over_states(data, arguments.get("checkpoints", ()))
        return super().for_data(data, **arguments)

    def _widths(self, members: Sequence[BaseTask]) -> list[int]:
        """Return the widths that `PredictionAveraging` takes: those of the members, if they add up to the input."""
        shapes = [member.input_shape for member in members]
        are_vectors = all(len(shape) == 1 for shape in (self.input_shape, *shapes))
        widths = [sum(shape) for shape in shapes] if are_vectors and len(shapes) > 1 else []
        return widths if sum(widths) == sum(self.input_shape) else []

    @staticmethod
    def _signature(model: BaseTask) -> tuple[Any, ...]:
        """Return the properties that all members have in common."""
        return model.input_shape, getattr(model, "class_names", ())

    def _load_member(self, checkpoint: str, done: Callable[[int], None]) -> tuple[str, BaseTask]:
        done(1)
        if is_model_spec(checkpoint):  # from the checkpoint of the ensemble, which contains the weights
            spec, member = checkpoint, build_from_spec(checkpoint)
        else:
            path = find_checkpoint(checkpoint)
            stored = read_checkpoint(path)
            spec, member = read_model_spec(path, stored)[0], load_model(path, stored)
            target = StoredTarget.of_checkpoint(stored)
            self._check_target(f"member {checkpoint}", target)
            self._targets[checkpoint] = target
        if member.task != (task := self.task) and task is not None:
            targets, name = TARGETS[task][0], type(member).__name__
            raise ValueError(f"the members of {type(self).__name__} must predict {targets}, which {name} does not")
        return spec, member

    def _check_target(self, name: str, target: StoredTarget) -> None:
        for checkpoint, other in self._targets.items():
            if target.differs_from(other):
                raise ValueError(
                    f"{name} has the target {target}, but member {checkpoint} predicts {other}: all must predict the "
                    "same target"
                )

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            self._check_target("the data", StoredTarget.of(data.hparams, getattr(data, "fitted", {})))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["trained_before"] = True


class EnsembleRegressor(EnsembleModel, RegressionTask):
    """Averages the values of trained regression models; `fit` trains nothing.

    See `EnsembleModel` and `RegressionTask`.
    """

    average = staticmethod(mean_output)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        first: Any = self.network.get_submodule("members.0")  # the loss is that of standardized targets
        self.target_mean.copy_(first.target_mean)
        self.target_std.copy_(first.target_std)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.network(inputs)  # the members return values in the units of the targets
        return values


class EnsembleMultiLabelClassifier(EnsembleModel, MultiLabelTask):
    """Averages the probabilities of trained multi-label classifiers; `fit` trains nothing.

    See `EnsembleModel` and `MultiLabelTask`.
    """

    average = staticmethod(mean_sigmoid)


class EnsembleClassifier(EnsembleModel, ClassificationTask):
    """Averages the probabilities of trained classifiers; `fit` trains nothing.

    It averages those of the logits, and has a temperature of its own: a mean of calibrated probabilities is not
    calibrated (X. Wu and M. Gales, "Should Ensemble Members Be Calibrated?", 2021). Without validation samples, it is
    the mean of those of the members.

    Args:
        **kwargs: See `EnsembleModel` and `ClassificationTask`.
    """

    average = staticmethod(mean_probability)
    regressor = EnsembleRegressor
    multilabel_classifier = EnsembleMultiLabelClassifier

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        members: Any = self.network.get_submodule("members")
        self.validation_choices.default_temperature = geometric_mean(member.softmax_temperature for member in members)
