"""What a model says of each test sample, for the report."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from kindling.models.classifier import Classifier


class CollectTest(Callback):
    """Keeps the answers and labels (N,) of a test on the CPU, in the order of the data set.

    Answers are logarithms of probabilities, (N, classes): of a small probability a float says too little.
    """

    answers: Tensor
    labels: Tensor

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor]] = []

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self._batches.append((outputs.cpu(), batch[1].cpu()))

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        # A process may have had no batch: then its share is empty.
        nothing = torch.empty(0, pl_module.num_classes), torch.empty(0, dtype=torch.long)
        answers, labels = (torch.cat(parts) for parts in zip(nothing, *self._batches, strict=True))
        self._batches.clear()
        self.answers, self.labels = whole(answers, trainer), whole(labels, trainer)


def whole(share: Tensor, trainer: Trainer) -> Tensor:
    """Puts together the shares (n, ...) of all processes: of W processes the r-th tests the samples r, r + W, ..."""
    if trainer.world_size == 1:
        return share
    shares = gather_all_tensors(share.to(trainer.strategy.root_device))  # they may differ in length by one
    together = share.new_empty(sum(map(len, shares)), *share.shape[1:])
    for rank, part in enumerate(shares):
        together[rank :: trainer.world_size] = part.cpu()
    return together
