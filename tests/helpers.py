"""Callbacks, data sources and models that tests name on the command line."""

import os
import signal
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanAbsoluteError, MetricCollection

from kindling import ClassificationTask, MLPClassifier, RegressionTask, SyntheticDataModule
from kindling.cli import main
from kindling.data.classification import ClassificationDataModule
from kindling.data.datamodule import ArrayDataset, BaseDataModule, Batch, Split
from kindling.models.mlp_base import mlp


def png_16(values: np.ndarray) -> bytes:
    """Return a PNG with 16 bits per channel for values (H, W, C); Pillow can't write such color images."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


class SignalAt(Callback):
    """Sends a signal to this process within a training step, as Ctrl-C does; optionally only in one rank."""

    def __init__(self, step: int, number: int = 2, rank: int | None = None) -> None:
        self.step, self.number, self.rank, self.sent = step, number, rank, False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank) and not self.sent:
            self.sent = True
            signal.raise_signal(self.number)


class SignalInSetup(Callback):
    """Sends a signal to this process before the callbacks after it are set up."""

    def __init__(self, number: int) -> None:
        self.number = number

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        signal.raise_signal(self.number)


class SignalInTest(Callback):
    """Sends a signal to the process of one rank before its first test batch."""

    def __init__(self, number: int, rank: int = 0) -> None:
        self.number, self.rank = number, rank

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == self.rank:
            signal.raise_signal(self.number)


class SignalBeforeTraining(SignalInTest):
    """Sends a signal to the process of one rank before its first training step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_test_start(trainer, pl_module)


class SignalInValidation(Callback):
    """Sends a signal to this process during the validation after some training steps."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit" and trainer.global_step == self.step:
            signal.raise_signal(self.number)


class TimeLimit(Callback):
    """Asks the stand-in for srun to send a signal within some training steps, and waits for it."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step in self.steps and trainer.is_global_zero:
            limit = Path(os.environ["CLUSTER"], "limit")
            limit.touch()
            while limit.exists():
                time.sleep(0.01)


class CrashAt(Callback):
    """Fails within a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("simulated crash")


class ExitAt(Callback):
    """Ends the process within a training step, as `sys.exit` does."""

    def __init__(self, step: int, code: int | str | None = None) -> None:
        self.step, self.code = step, code

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            sys.exit(self.code)


class StopAt(Callback):
    """Requests the end of training within a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


class SampleRecorder(Callback):
    """Records the first feature of all training samples, batch by batch."""

    batches: ClassVar[list[list[float]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0][:, 0].tolist())


class ShareRecorder(Callback):
    """Writes the first feature of all training samples of this process, and its random numbers, to a file."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        values = [*batch[0][:, 0].tolist(), torch.get_rng_state().sum().item()]
        with Path(f"shares{trainer.global_rank}.txt").open("a") as file:
            file.write(" ".join(map(repr, values)) + "\n")


class KillAt(Callback):
    """Kills this process within a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class KillOnce(KillAt):
    """Kills the process of one rank within a training step, unless it has done so before."""

    def __init__(self, step: int, rank: int) -> None:
        super().__init__(step)
        self.rank = rank

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank and not Path("killed").exists():
            Path("killed").touch()
            super().on_before_backward(trainer, pl_module, loss)


class MemoryRecorder(Callback):
    """Records the memory of this process after each epoch."""

    megabytes: ClassVar[list[float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


class CheckSameWeights(Callback):
    """Fails if the weights of the processes differ at the end of training."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sums = torch.stack([parameter.detach().double().sum() for parameter in pl_module.parameters()])
        together = trainer.strategy.all_gather(sums)
        assert isinstance(together, torch.Tensor)
        assert (together == together[0]).all(), "the processes have trained different weights"
        if trainer.is_global_zero:
            print(f"identical weights in {len(together)} processes")


AWKWARD = ('<b>&"', "a\\b' 漢字", "</td></table><script>alert(1)</script>", 'quote"', "a, b\nc")


class AwkwardDataModule(SyntheticDataModule):
    """Classes and rows with names that must be escaped in HTML and in tables."""

    row_header = "<i>row"

    def __init__(self, **loading: Any) -> None:
        super().__init__(num_samples=300, num_classes=len(AWKWARD), **loading)
        self.class_names = AWKWARD

    def tested_rows(self) -> list[str]:
        return [f'<i>row</i> "{row}"' for row in super().tested_rows()]


class ColumnsDataModule(SyntheticDataModule):
    """Classes named like columns of predictions.csv."""

    def __init__(self, **loading: Any) -> None:
        super().__init__(num_samples=300, **loading)
        self.class_names = ("label", "row", "p")


class NaNTestDataModule(SyntheticDataModule):
    """Every third test sample is NaN, and so is its prediction."""

    def load(self, split: Split) -> Batch:
        inputs, labels = super().load(split)
        if split == "test":
            inputs[::3] = torch.nan
        return inputs, labels


class PhotosDataModule(ClassificationDataModule):
    """Noise of the size of photos, which PNG can't compress."""

    num_classes, input_shape, class_names = 3, (3, 300, 600), ("0", "1", "2")

    def load(self, split: Split) -> Batch:
        random = torch.Generator().manual_seed(len(split))
        images = torch.randint(256, (40, *self.input_shape), dtype=torch.uint8, generator=random)
        return images, torch.randint(3, (40,), generator=random)


class SumDataModule(BaseDataModule):
    """A regression target: the sum of the first two features."""

    input_shape = (20,)

    def load(self, split: Split) -> Batch:
        inputs, _ = SyntheticDataModule(num_samples=300).load(split)
        return inputs, inputs[:, :2].sum(dim=1)


class SumRegressor(RegressionTask):
    """A regression network with its own metric and loss."""

    def __init__(self, width: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = mlp(self.input_shape[0], (width,), 1, [0.0], False)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"mae": MeanAbsoluteError()})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)


class EasyDataModule(SyntheticDataModule):
    """Classes that any network can separate."""

    def load(self, split: Split) -> Batch:
        inputs, labels = super().load(split)
        return inputs + 100 * labels.view(-1, 1), labels


class NaNGradient(nn.Module):
    """Returns its inputs, but its gradient is NaN: that of a square root at 0, times 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.sqrt(0 * inputs)


class NaNGradientClassifier(MLPClassifier):
    """A network with a layer whose gradient is NaN."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((8, 8), **kwargs)
        first, *others = self.network.children()
        self.network = nn.Sequential(first, *others[:2], NaNGradient(), *others[2:])


class DeadClassifier(MLPClassifier):
    """A network with 30 dead units among its 40 hidden ones."""

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


class LargeWeightsClassifier(MLPClassifier):
    """A network whose initial weights are far too large."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((64, 32), **kwargs)
        for weight in self.network.parameters():
            nn.init.normal_(weight, std=10)


class BrokenDataModule(SyntheticDataModule):
    """Three samples of one split are NaN."""

    def __init__(self, broken: str = "train", **loading: Any) -> None:
        super().__init__(num_samples=300, **loading)
        self.broken = broken

    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        train, val = super().load_training()
        (train if self.broken == "train" else val).inputs[:3] = torch.nan
        return train, val


class FailingInputs:
    """Inputs (N, 20) that a data-loading process fails to read."""

    def __init__(self, inputs: Tensor, failure: str) -> None:
        self.inputs, self.failure = inputs, failure

    def __getitem__(self, index: Tensor) -> Tensor:
        if self.failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(5, "Input/output error", "cat.jpg") if self.failure == "os" else ValueError("cat.jpg is\nbroken")


class FailingDataModule(SyntheticDataModule):
    """Validation samples that a data-loading process fails to read."""

    def __init__(self, failure: str, **loading: Any) -> None:
        super().__init__(num_workers=1, **loading)
        self.failure = failure

    def load_training(self) -> tuple[ArrayDataset, ArrayDataset]:
        train, val = super().load_training()
        return train, ArrayDataset(FailingInputs(val.inputs, self.failure), val.labels)


class NanAt(Callback):
    """Sets two samples of a training step to NaN, in one process."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            batch[0][:2] = torch.nan


class Untraceable(MLPClassifier):
    """A network that raises a RuntimeError while it is traced."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(hidden=(8,), **kwargs)
        next(self.network.children()).register_forward_hook(fail_while_tracing)


def fail_while_tracing(*_: Any) -> None:
    """Raise an error while a network is traced."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise RuntimeError("this path can't be recorded")


class ListRunsAt(Callback):
    """Lists the runs within a training step, as a user in another terminal does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            main(["runs"])


class OddNamesDataModule(SyntheticDataModule):
    """Classes with names that must be escaped in tables, tags and formulas."""

    def __init__(self, **loading: Any) -> None:
        names = ("$x^$", "a | b", "two\nlines", "tab\there", "漢字", "long " * 60, "a/b")
        super().__init__(num_classes=len(names), **loading)
        self.class_names = names


class UntraceableByAssertion(ClassificationTask):
    """A network that raises an AssertionError while it is traced."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Sequential(AssertingLayer(), nn.Linear(self.input_shape[0], self.num_classes))


class AssertingLayer(nn.Module):
    """Asserts that sizes are plain integers, which they are not during tracing."""

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


class KeywordInputs(ClassificationTask):
    """A network that calls its linear layer with keyword arguments."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = KeywordLayer(self.input_shape[0], self.num_classes)


class KeywordLayer(nn.Module):
    """Calls a linear layer with keyword arguments."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(input=inputs)
        return outputs


class NoLinearLayer(ClassificationTask):
    """A network without a linear layer, with an empty parameter."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = nn.Unflatten(1, (1, -1)), nn.Conv1d(1, self.num_classes, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()
        self.network = nn.Sequential(*layers)
        self.network.register_parameter("empty", nn.Parameter(torch.zeros(0)))


class SharedClassifier(ClassificationTask):
    """A network that uses one ReLU twice; at the second place, 10 of 16 units are dead."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        act, narrow = nn.ReLU(), nn.Linear(64, 16)
        self.network = nn.Sequential(nn.Linear(20, 64), act, narrow, act, nn.Linear(16, self.num_classes))
        with torch.no_grad():
            narrow.bias[:10] = -100


class ScaledClassifier(MLPClassifier):
    """A model with a parameter outside of its network that is NaN from the start."""

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
    """A network for sequences, which does not take images."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.GRU(28, 10)


class TwoOutputs(ClassificationTask):
    """A network that ignores the number of classes and has two outputs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))


class Detached(MLPClassifier):
    """A model whose outputs are detached from its weights."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs).detach()


def batch_size(batch: Any) -> int:
    """Return the number of samples in a batch, for ThroughputMonitor."""
    return len(batch[1])


class PrototypeDataModule(ClassificationDataModule):
    """Samples around a random point of each class, two for training and `per_class` for testing."""

    input_shape = (32,)

    def __init__(self, num_classes: int = 300, per_class: int = 4, **loading: Any) -> None:
        super().__init__(**loading)
        self.num_classes, self.per_class = num_classes, per_class
        self.class_names = tuple(f"class {label}" for label in range(num_classes))

    def load(self, split: Split) -> Batch:
        random = torch.Generator().manual_seed(0)
        prototypes = torch.randn(self.num_classes, 32, generator=random)
        labels = torch.arange(self.num_classes).repeat(2 if split == "train" else self.per_class)
        random.manual_seed(len(split))
        return prototypes[labels] + 0.6 * torch.randn(len(labels), 32, generator=random), labels


class TagsDataModule(BaseDataModule):
    """Several of 300 classes per sample, one of them told by the largest input."""

    task, num_classes, input_shape = "multilabel", 300, (300,)
    class_names = tuple(f"tag {label}" for label in range(300))

    def load(self, split: Split) -> Batch:
        inputs = torch.randn(300, 300, generator=torch.Generator().manual_seed(len(split)))
        return inputs, (inputs > 2).float()


class HalveOnPlateau(ReduceLROnPlateau):
    """Halves the learning rate whenever the validation loss stops falling."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, factor=0.5)
