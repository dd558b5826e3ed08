"""Batch norm over the samples of all processes, also on the CPU, where torch's SyncBatchNorm refuses to run."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, distributed, nn
from torch.autograd.function import Function, FunctionCtx
from torch.nn.modules._functions import SyncBatchNorm as TorchFunction
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from kindling.utils.shared_batches import BATCH_NORMS, all_have_samples, has_samples

logger = logging.getLogger(__name__)


class SumOverProcesses(Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        """Return the sum."""
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Any:
        """Return the gradient of the values."""
        return SumOverProcesses.apply(*gradients)


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm of inputs (N, C, ...), in training with mean and variance over the samples of all processes.

    The processes may have different numbers of samples. Everything else, such as the names of the weights, is that of
    the layer whose class this one extends.
    """

    find_trainer: Callable[[], Trainer]

    @override
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and distributed.is_initialized() and distributed.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / int(self.num_batches_tracked) if momentum is None else momentum
        if input.is_cuda and all_have_samples(self.find_trainer()):
            statistics = self.running_mean, self.running_var, self.eps, momentum
            group, processes = distributed.group.WORLD, distributed.get_world_size()
            outputs: Tensor = TorchFunction.apply(input, self.weight, self.bias, *statistics, group, processes)
            return outputs
        return self._normalize(input, momentum or 0.0)

    def _normalize(self, input: Tensor, momentum: float) -> Tensor:
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        dims, shape = [0, *range(2, input.ndim)], [-1] + [1] * (input.ndim - 2)
        counted = float(has_samples(self.find_trainer()))
        number = values.new_tensor([counted * values.numel() / values.shape[1]])
        sums = SumOverProcesses.apply(torch.cat([counted * values.sum(dims), number]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centered = values - mean.view(shape)
        squares = SumOverProcesses.apply(counted * centered.square().sum(dims))
        variance = squares / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(squares / (count - 1), momentum)
        outputs: Tensor = centered * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            outputs = outputs * self.weight.view(shape)
        if self.bias is not None:
            outputs = outputs + self.bias.view(shape)
        return outputs.to(input.dtype)


SYNCHRONIZED: dict[type[nn.Module], Any] = {
    kind: type(f"Synchronized{kind.__name__}", (SynchronizedBatchNorm, kind), {}) for kind in BATCH_NORMS
}


class BatchNormSync(LayerSync):
    """Synchronizes the batch norm layers of a model while it is trained; they stay the same modules."""

    @override
    def apply(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, LightningModule)
        trainer = model.trainer
        for name, module in model.named_modules():
            if kind := SYNCHRONIZED.get(type(module)):
                module.__class__ = kind
                module.find_trainer = lambda: trainer  # a function, as a copy of the model must not copy the Trainer
            elif isinstance(module, BATCH_NORMS):  # such as timm's, which includes the activation
                logger.warning(f"batch norm is not synchronized in {name}, a {type(module).__name__}")
        return model

    @override
    def revert(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, SynchronizedBatchNorm):
                del module.find_trainer
                module.__class__ = type(module).__bases__[1]
        return model


def use_own_batch_norm(trainer: Trainer) -> None:
    """Replace torch's synchronized batch norm, which Lightning uses for `--trainer.sync_batchnorm true`."""
    if getattr(trainer.strategy, "_layer_sync", None) is not None:
        trainer.strategy._layer_sync = BatchNormSync()  # type: ignore[attr-defined]
