"""Several trained models that answer as one."""

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
    """The mean of what its members say, each of which takes raw inputs.

    Args:
        members: Models that give logits (N, classes).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        logs = torch.stack([member(inputs).log_softmax(dim=1) for member in self.members])  # (members, N, classes)
        return logs.logsumexp(dim=0) - math.log(len(self.members))  # the softmax of these is the mean probability

    @override
    def train(self, mode: bool = True) -> "ProbabilityAveraging":
        return super().train(False)  # no dropout, no new statistics


class EnsembleClassifier(ClassificationTask):
    """Averages the probabilities of models that were trained before; nothing of it is trained.

    `fit` puts the members into one checkpoint, which from then on needs nothing else, and measures it.

    Args:
        checkpoints: The members: run folders or checkpoints of models for the same inputs and classes.
        **kwargs: See `ClassificationTask`; what concerns training has no effect.

    Raises:
        ValueError: If there are no members, or one is for other inputs or classes.
    """

    def __init__(self, checkpoints: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not checkpoints:
            raise ValueError("an ensemble needs members: name at least one in checkpoints")
        with progress(f"building {len(checkpoints)} members", len(checkpoints)) as done:
            texts, members = zip(*(_member(checkpoint, done) for checkpoint in checkpoints), strict=True)
        for number, member in enumerate(members):
            ours, theirs = (self.input_shape, self.class_names), (member.input_shape, member.class_names)
            if ours != theirs:
                raise ValueError(
                    f"member {checkpoints[number]} is for other inputs or classes: {theirs} and not {ours}"
                )
        self.hparams["checkpoints"] = list(texts)
        self.network = ProbabilityAveraging(members).requires_grad_(False)
        self.mean.zero_()
        self.std.fill_(1)  # each member normalises its inputs as it learned to

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["trained_before"] = True


def _member(checkpoint: str, done: Callable[[int], None]) -> tuple[str, ClassificationTask]:
    done(1)
    if is_model_spec(checkpoint):  # out of the ensemble's own checkpoint, which brings the weights
        member = build_from_spec(checkpoint)
        if not isinstance(member, ClassificationTask):
            raise ValueError(f"the checkpoint puts a {type(member).__name__} into an ensemble, which is no classifier")
        return checkpoint, member
    path = find_checkpoint(checkpoint)
    return read_model_spec(path)[0], load_classifier(path)
