"""What a model says of each test sample, for the report."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from kindling.models.classifier import Classifier


class Batches:
    """What a model says of a split batch by batch, and the labels."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor]] = []

    def add(self, answers: Tensor, labels: Tensor) -> None:
        """Keeps those of one batch, shapes (n, classes) (or numbers, (n,)) and (n,), on the CPU."""
        self._batches.append((answers.cpu(), labels.cpu()))

    def clear(self) -> None:
        """Forgets them."""
        self._batches.clear()

    def together(self, trainer: Trainer, model: Classifier) -> tuple[Tensor, Tensor]:
        """Those of all processes in the order of the data set, (N, classes) or (N,), and (N,); none are kept."""
        # A process may have had no batch: then its share is empty.
        classes = (model.num_classes,) if model.classifies else ()
        nothing = torch.empty(0, *classes), torch.empty(0, dtype=torch.long)
        answers, labels = (torch.cat(parts) for parts in zip(nothing, *self._batches, strict=True))
        self._batches.clear()
        return whole(answers, trainer), whole(labels, trainer)


class CollectTest(Callback):
    """Keeps the answers and labels (N,) of a test on the CPU, in the order of the data set.

    Answers are logarithms of probabilities, (N, classes): of a small probability a float says too little.
    """

    answers: Tensor
    labels: Tensor

    def __init__(self) -> None:
        self._batches = Batches()

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self._batches.add(outputs, batch[1])

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        self.answers, self.labels = self._batches.together(trainer, pl_module)


def whole(share: Tensor, trainer: Trainer) -> Tensor:
    """Join the shares (n, ...) of all processes.

    Of W processes, rank r evaluates the samples r, r + W, ...; a split of fewer than W samples each of them evaluates
    whole.
    """
    loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    sampler = getattr(loader, "sampler", None)
    if getattr(sampler, "num_replicas", trainer.world_size) == 1:
        return share
    shares = gather_all_tensors(share.to(trainer.strategy.root_device))  # they may differ in length by one
    together = share.new_empty(sum(map(len, shares)), *share.shape[1:])
    for rank, part in enumerate(shares):
        together[rank :: trainer.world_size] = part.cpu()
    return together
