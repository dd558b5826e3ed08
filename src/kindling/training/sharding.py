"""Training with weights, gradients and optimizer state shared out among the processes (FSDP2)."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer
from typing_extensions import override


class ShardedStrategy(ModelParallelStrategy):
    """Fully sharded data parallelism: each process stores a part of the weights, gradients and optimizer state.

    Lightning's strategy needs a model that shards itself; this one shards any model, and saves each checkpoint as a
    single file with whole tensors, which other strategies and a single process read.

    Args:
        min_parameters: Number of weights from which a part of the model is gathered and freed as a unit.
        process_group_backend: Backend of torch.distributed; by default NCCL on GPUs and gloo on CPUs.

    Raises:
        ValueError: If a model has weights of its own, outside of any layer.
    """

    def __init__(self, min_parameters: int = 10_000_000, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )
        self.min_parameters = min_parameters

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _SubprocessScriptLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @override
    def setup(self, trainer: Trainer) -> None:
        assert isinstance(self.model, LightningModule)
        assert self.accelerator is not None
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, WeightAveraging) for callback in callbacks):
            raise ValueError("sharded weights can't be averaged: use --trainer.strategy ddp, or remove --averaging")
        self.accelerator.setup(trainer)
        if self._layer_sync and trainer.training:
            self._layer_sync.apply(self.model)
        self.model = self.precision_plugin.convert_module(self.model)
        if trainer.state.fn == "fit" and not any(isinstance(module, FSDPModule) for module in self.model.modules()):
            self._shard(self.model)  # before anything else is moved to the device, where all weights might not fit
        self.model_to_device()
        if trainer.state.fn == "fit":
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _shard(self, model: nn.Module) -> None:
        if names := [name for name, _ in model.named_parameters(recurse=False)]:
            raise ValueError(f"{type(model).__name__}.{names[0]} is outside of any layer and can't be sharded: use ddp")
        for parameter in model.parameters():  # FSDP can't shard those in the memory format channels_last
            parameter.data = parameter.data.contiguous()
        mesh = self.device_mesh["data_parallel"]
        for unit in units(model, self.min_parameters):
            fully_shard(unit, mesh=mesh)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, {**checkpoint["state_dict"]}, options=options)

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state with whole tensors and numbered weights, as of an ordinary optimizer; {} but on rank 0."""
        assert self.model is not None
        optimizer = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = get_optimizer_state_dict(self.model, optimizer, options=options)
        if not state:
            return {}
        groups = state["param_groups"]
        numbers = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
        return {
            "state": {numbers[name]: values for name, values in state["state"].items()},
            "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in groups],
        }

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.model is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
            named: dict[str, Any] = {
                "state": {order[number]: values for number, values in state["state"].items()},
                "param_groups": [
                    {**group, "params": [order[number] for number in group["params"]]}
                    for group in state["param_groups"]
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, named, options=options)

    @override
    def teardown(self) -> None:
        if self._layer_sync and isinstance(self.model, LightningModule):
            self._layer_sync.revert(self.model)
        super().teardown()


def units(model: nn.Module, min_parameters: int) -> Iterator[nn.Module]:
    """Yield the modules to shard, inner ones first: those with enough weights, and the children of the model.

    The model itself is none, as its training step may call its children without its `forward`.
    """
    for child in model.children():
        yield from _large_parts(child, min_parameters)
        if any(True for _ in child.parameters()):
            yield child


def _large_parts(module: nn.Module, min_parameters: int) -> Iterator[nn.Module]:
    """Yield the modules within a module that have enough weights, without those of inner ones that have them too."""
    for child in module.children():
        yield from (inner := list(_large_parts(child, min_parameters)))
        shared = {parameter for part in inner for parameter in part.parameters()}
        own = [parameter for parameter in child.parameters() if parameter not in shared]
        if sum(parameter.numel() for parameter in own) >= min_parameters:
            yield child
