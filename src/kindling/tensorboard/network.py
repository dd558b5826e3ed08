"""A network in TensorBoard: graph, filters, histograms of weights and gradients, and texts about it."""

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning.pytorch.core.module import _jit_is_scripting  # https://github.com/pytorch/pytorch/issues/67146
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kindling.models.task import BaseTask
from kindling.runs.text_files import read_text
from kindling.tensorboard.images import add_picture, first_filters, image_grid
from kindling.utils.console import as_command

logger = logging.getLogger(__name__)

METRICS = "| _metric_modules"  # in the rows of a summary that are not part of the network
BINS = 64
MAX_VALUES = 100_000  # of a tensor; a histogram of more looks the same and takes longer


def write_texts(writer: SummaryWriter, model: LightningModule, step: int) -> None:
    """Write the configuration if there is one, the layers of the model, and commands for the run."""
    if is_sharded(model):  # the summary may call the model
        return
    run = Path(writer.log_dir).parent
    rows = str(ModelSummary(model, max_depth=-1)).splitlines()
    summary = "\n".join(row for row in rows if METRICS not in row)
    commands = {
        "resume this run": as_command("kindling", "fit --ckpt_path", run),
        "train for more epochs": as_command("kindling", "fit --ckpt_path", run, "--trainer.max_epochs N"),
        "repeat this run": as_command("kindling", "fit --config", run / "config.yaml"),
        "test the best epoch": as_command("kindling", "test --ckpt_path", run),
    }
    about = [code(summary), *(f"{purpose}:\n{code(command)}" for purpose, command in commands.items())]
    texts = {"model and commands": "\n".join(about)}
    if (config := run / "config.yaml").exists():
        texts["config"] = code(read_text(config))
    for tag, text in texts.items():
        writer.add_text(tag, text, step)


def is_sharded(model: LightningModule) -> bool:
    """Return whether each process has a part of the weights; to use them, all processes must take part."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def code(text: str) -> str:
    """Return text as a code block in Markdown."""
    return "\n" + "\n".join(f"    {line}" for line in text.splitlines()) + "\n"


def write_histograms(writer: SummaryWriter, model: LightningModule, step: int) -> None:
    """Write histograms of the weights and their gradients."""
    if is_sharded(model):
        return
    for name, parameter in model.named_parameters():
        for kind, values in (("", parameter.detach()), (" (gradient)", parameter.grad)):
            if values is not None and values.numel() and values.isfinite().all():
                write_histogram(writer, f"weights/{name.removeprefix('network.')}{kind}", values, step)


def write_histogram(writer: SummaryWriter, tag: str, values: Tensor, step: int) -> None:
    """Write one histogram; torch's `add_histogram` takes ten times as long."""
    flat = values.flatten().float()
    flat = flat[:: -(-len(flat) // MAX_VALUES)].cpu()
    counts, edges = torch.histogram(flat, BINS)
    low, high, total, squares = map(float, (flat.min(), flat.max(), flat.sum(), flat.square().sum()))
    writer.add_histogram_raw(tag, low, high, len(flat), total, squares, edges[1:].tolist(), counts.tolist(), step)


def write_network(writer: SummaryWriter, model: LightningModule, step: int) -> None:
    """Write histograms of the weights, the filters of the first convolution, and the graph of a network.

    A plain LightningModule needs an `example_input_array` for the graph.
    """
    if is_sharded(model):
        return
    write_histograms(writer, model, step)
    network = model.core if isinstance(model, BaseTask) else model
    if (filters := first_filters(network)) is not None:
        add_picture(writer, "pictures/filters of the first layer", image_grid(filters), step)
    inputs = model.example_inputs() if isinstance(model, BaseTask) and model.has_example else model.example_input_array
    if inputs is None:
        return
    inputs = move_data_to_device(inputs, model.device)
    network = copy.copy(network)
    network._compiled_call_impl = None  # copies of a LightningModule keep it, and it can't be traced
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _jit_is_scripting():
            warnings.simplefilter("ignore")  # the traced network is only drawn, never run
            writer.add_graph(network, inputs)
    except Exception as error:  # tracing may fail in any way; the run must not
        logger.warning(
            f"TensorBoard shows no graph: this network can't be traced, {(str(error).splitlines() or ['?'])[0]}"
        )
