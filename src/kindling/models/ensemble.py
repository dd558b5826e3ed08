"""An ensemble of trained classifiers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from kindling.models.classification import ClassificationTask
from kindling.models.loading import build_from_spec, is_model_spec, load_classifier, read_model_spec
from kindling.runs.find import find_checkpoint
from kindling.utils.console import progress


class ProbabilityAveraging(nn.Module):
    """Average the probabilities of several models, each of which takes raw inputs.

    Args:
        members: Models that return logits (N, classes).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        log_probabilities = torch.stack([member(inputs).log_softmax(dim=1) for member in self.members])
        return log_probabilities.logsumexp(dim=0) - math.log(len(self.members))  # (N, classes): log of the mean

    @override
    def train(self, mode: bool = True) -> "ProbabilityAveraging":
        return super().train(False)  # no dropout, frozen batch-norm statistics


class EnsembleClassifier(ClassificationTask):
    """Averages the probabilities of trained classifiers; `fit` trains nothing.

    `fit` evaluates the ensemble and saves all members in one self-contained checkpoint.

    Args:
        checkpoints: The members: run folders or checkpoints of classifiers with the same input shape and classes.
        **kwargs: See `ClassificationTask`; training options have no effect.

    Raises:
        ValueError: If there are no members, or their input shapes or classes differ.
    """

    def __init__(self, checkpoints: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not checkpoints:
            raise ValueError("an ensemble needs members: give at least one with --model.checkpoints")
        with progress(f"building {len(checkpoints)} members", len(checkpoints)) as done:
            specs, members = zip(*(_load_member(checkpoint, done) for checkpoint in checkpoints), strict=True)
        ours = (self.input_shape, self.class_names)
        for checkpoint, member in zip(checkpoints, members, strict=True):
            theirs = (member.input_shape, member.class_names)
            if theirs != ours:
                raise ValueError(f"member {checkpoint} has another input shape or other classes: {theirs}, not {ours}")
        self.hparams["checkpoints"] = list(specs)
        self.network = ProbabilityAveraging(members).requires_grad_(False)
        self.mean.zero_()
        self.std.fill_(1)  # each member normalizes its inputs itself

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["trained_before"] = True


def _load_member(checkpoint: str, done: Callable[[int], None]) -> tuple[str, ClassificationTask]:
    done(1)
    if is_model_spec(checkpoint):  # from the checkpoint of the ensemble, which contains the weights
        member = build_from_spec(checkpoint)
        if not isinstance(member, ClassificationTask):
            raise ValueError(f"the members of an ensemble must be classifiers, got {type(member).__name__}")
        return checkpoint, member
    path = find_checkpoint(checkpoint)
    return read_model_spec(path)[0], load_classifier(path)
