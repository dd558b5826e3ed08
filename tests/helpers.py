"""Callbacks, data sources and models that tests name on the command line."""

import os
import signal
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MetricCollection

from kindling import ClassificationTask, MLPClassifier, RegressionTask, SyntheticDataModule
from kindling.cli import main
from kindling.data.datamodule import ArrayDataset, BaseDataModule, Batch, ClassificationDataModule, Split
from kindling.models.layers import mlp


def png_16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, (H, W, C), which Pillow can't write for colors."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


class SignalAt(Callback):
    """Sends this process a signal in the middle of one training step, as Ctrl-C does; of several, those of a rank."""

    def __init__(self, step: int, number: int = 2, rank: int | None = None) -> None:
        self.step, self.number, self.rank, self.sent = step, number, rank, False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank) and not self.sent:
            self.sent = True
            signal.raise_signal(self.number)


class SignalInTest(Callback):
    """Sends this process a signal before its first test batch; of several processes, that of a rank."""

    def __init__(self, number: int, rank: int = 0) -> None:
        self.number, self.rank = number, rank

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == self.rank:
            signal.raise_signal(self.number)


class CrashAt(Callback):
    """Fails in the middle of one training step, as a lost machine does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("the lights went out")


class StopAt(Callback):
    """Asks for the end of the training in the middle of one training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


class OwnRandomNumbers(Callback):
    """Gives each process of a training random numbers of its own, once."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            torch.manual_seed(trainer.global_rank)


class SeenSamples(Callback):
    """Notes the training samples of each batch, by their first feature."""

    batches: ClassVar[list[list[float]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0][:, 0].tolist())


class KillAt(Callback):
    """Ends this process on the spot in the middle of one training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class MemoryByEpoch(Callback):
    """Notes the memory of this process after each epoch."""

    megabytes: ClassVar[list[float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


class SameEverywhere(Callback):
    """Fails where the weights of the processes of a training differ at its end."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sums = torch.stack([parameter.detach().double().sum() for parameter in pl_module.parameters()])
        together = trainer.strategy.all_gather(sums)
        assert isinstance(together, torch.Tensor)
        assert (together == together[0]).all(), "the processes have trained different weights"
        if trainer.is_global_zero:
            print(f"the same in {len(together)} processes")


AWKWARD = ('<b>&"', "a\\b' 漢字", "</td></table><script>alert(1)</script>", 'quote"', "a, b\nc")


class AwkwardDataModule(SyntheticDataModule):
    """Classes and rows with names that break a page or a table which does not mind them."""

    row_header = "<i>row"

    def __init__(self, **loading: Any) -> None:
        super().__init__(num_samples=300, num_classes=len(AWKWARD), **loading)
        self.class_names = AWKWARD

    def tested_rows(self) -> list[str]:
        return [f'<i>row</i> "{row}"' for row in super().tested_rows()]


class ColumnsDataModule(SyntheticDataModule):
    """Classes that are called like columns of predictions.csv."""

    def __init__(self, **loading: Any) -> None:
        super().__init__(num_samples=300, **loading)
        self.class_names = ("label", "row", "p")


class SilentDataModule(SyntheticDataModule):
    """Test samples of which every third is NaN, and so what a model says of it."""

    def load(self, split: Split) -> Batch:
        inputs, labels = super().load(split)
        if split == "test":
            inputs[::3] = torch.nan
        return inputs, labels


class PhotosDataModule(ClassificationDataModule):
    """Noise of the size of photos, which no PNG makes smaller."""

    num_classes, input_shape, class_names = 3, (3, 300, 600), ("0", "1", "2")

    def load(self, split: Split) -> Batch:
        random = torch.Generator().manual_seed(len(split))
        images = torch.randint(256, (40, *self.input_shape), dtype=torch.uint8, generator=random)
        return images, torch.randint(3, (40,), generator=random)


class SumDataModule(BaseDataModule):
    """A number to predict in place of a class: the sum of the first two features."""

    input_shape = (20,)

    def load(self, split: Split) -> Batch:
        inputs, _ = SyntheticDataModule(num_samples=300).load(split)
        return inputs, inputs[:, :2].sum(dim=1)


class SumRegressor(RegressionTask):
    """A network that predicts a number, with a metric and a loss of its own."""

    def __init__(self, width: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = mlp(self.input_shape[0], (width,), 1, [0.0], False)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"mae": MeanAbsoluteError()})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)


class EasyDataModule(SyntheticDataModule):
    """Classes that any network tells apart."""

    def load(self, split: Split) -> Batch:
        inputs, labels = super().load(split)
        return inputs + 100 * labels.view(-1, 1), labels


class Root(nn.Module):
    """Gives what it is given, but its gradient is NaN: that of a root at 0, times 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.sqrt(0 * inputs)


class RootClassifier(MLPClassifier):
    """A network with a root in its middle."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((8, 8), **kwargs)
        first, *others = self.network.children()
        self.network = nn.Sequential(first, *others[:2], Root(), *others[2:])


class DeadClassifier(MLPClassifier):
    """A network of which 30 of 40 hidden units answer nothing."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((40,), **kwargs)
        with torch.no_grad():
            self.network.get_parameter("1.bias")[:30] = -100


class SigmoidClassifier(ClassificationTask):
    """Thirty layers of sigmoids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        inner = [layer for _ in range(30) for layer in (nn.Linear(20, 20), nn.Sigmoid())]
        self.network = nn.Sequential(*inner, nn.Linear(20, self.num_classes))


class WildClassifier(MLPClassifier):
    """A network whose weights are far too large."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((64, 32), **kwargs)
        for weight in self.network.parameters():
            nn.init.normal_(weight, std=10)


class BrokenDataModule(SyntheticDataModule):
    """Samples of which three of one split are NaN."""

    def __init__(self, broken: str = "train", **loading: Any) -> None:
        super().__init__(num_samples=300, **loading)
        self.broken = broken

    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        train, val = super().load_training()
        (train if self.broken == "train" else val).inputs[:3] = torch.nan
        return train, val


class FailingInputs:
    """Inputs (N, 20) that can't be read by a data-loading process."""

    def __init__(self, inputs: Tensor, failure: str) -> None:
        self.inputs, self.failure = inputs, failure

    def __getitem__(self, index: Tensor) -> Tensor:
        if self.failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(5, "Input/output error", "cat.jpg") if self.failure == "os" else ValueError("cat.jpg is\nbroken")


class FailingDataModule(SyntheticDataModule):
    """Samples whose validation fails in a data-loading process."""

    def __init__(self, failure: str, **loading: Any) -> None:
        super().__init__(num_workers=1, **loading)
        self.failure = failure

    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        train, val = super().load_training()
        return train, ArrayDataset(FailingInputs(val.inputs, self.failure), val.labels)


class NanAt(Callback):
    """Makes two samples of one training step NaN, in one process."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            batch[0][:2] = torch.nan


class Untraceable(MLPClassifier):
    """A network whose path depends on whether it is traced."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(hidden=(8,), **kwargs)
        next(self.network.children()).register_forward_hook(refuse)


def refuse(*_: Any) -> None:
    """Fails while a network is traced."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise RuntimeError("this path can't be recorded")


class RunsAt(Callback):
    """Lists the runs in the middle of one training step, as someone in another window does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            main(["runs"])


class OddNamesDataModule(SyntheticDataModule):
    """Classes whose names break tables, tags and formulas."""

    def __init__(self, **loading: Any) -> None:
        names = ("$x^$", "a | b", "two\nlines", "tab\there", "漢字", "long " * 60, "a/b")
        super().__init__(num_classes=len(names), **loading)
        self.class_names = names


class Asserting(ClassificationTask):
    """A network that fails where it is traced, by something else than a RuntimeError."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Sequential(AssertingLayer(), nn.Linear(self.input_shape[0], self.num_classes))


class AssertingLayer(nn.Module):
    """Takes sizes to be numbers, as they are but for tracing."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert type(inputs.shape[0]) is int
        return inputs


class Sequences(ClassificationTask):
    """A last linear layer over (N, T, F), averaged afterwards."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = nn.Unflatten(1, (-1, 2)), nn.Linear(2, width), nn.ReLU(), nn.Linear(width, self.num_classes), Mean()
        self.network = nn.Sequential(*layers)


class Mean(nn.Module):
    """The mean over T."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(1)


class ByKeyword(ClassificationTask):
    """A linear layer whose inputs come by name."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = Named(self.input_shape[0], self.num_classes)


class Named(nn.Module):
    """Calls its layer by keyword."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.linear(input=inputs)
        return answers


class Unlinear(ClassificationTask):
    """No linear layer at all, and parameters without elements."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = nn.Unflatten(1, (1, -1)), nn.Conv1d(1, self.num_classes, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()
        self.network = nn.Sequential(*layers)
        self.network.register_parameter("nothing", nn.Parameter(torch.zeros(0)))


class SharedClassifier(ClassificationTask):
    """A network with one ReLU at two places; at the second one, 10 of 16 units answer nothing."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        act, narrow = nn.ReLU(), nn.Linear(64, 16)
        self.network = nn.Sequential(nn.Linear(20, 64), act, narrow, act, nn.Linear(16, self.num_classes))
        with torch.no_grad():
            narrow.bias[:10] = -100


class ScaledClassifier(MLPClassifier):
    """A model with a parameter of its own, beside the network, that begins with NaN."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((8,), **kwargs)
        self.scale = nn.Parameter(torch.full((1,), torch.nan))

    def forward(self, inputs: Tensor) -> Any:
        return self.scale * super().forward(inputs)


class NoSpaceLeft(Callback):
    """Fails after the first epoch, as a full disk does."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise OSError(28, "No space left on device")


class Recurrent(ClassificationTask):
    """Takes sequences, as many a network of one's own does, and no images."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.GRU(28, 10)


class TwoOutputs(ClassificationTask):
    """Does not ask how many classes there are."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))


class Detached(MLPClassifier):
    """Cuts its answers off from the weights."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs).detach()


def batch_size(batch: Any) -> int:
    """The number of samples of a batch, for ThroughputMonitor."""
    return len(batch[1])
