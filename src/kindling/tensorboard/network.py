"""A network as TensorBoard shows it: graph, filters, weights and gradients, and in words."""

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning.pytorch.core.module import _jit_is_scripting  # members of an ensemble have no Trainer to be looked at
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kindling.models.task import BaseTask
from kindling.runs.find import read_text
from kindling.tensorboard.images import add_picture, first_filters, image_grid
from kindling.utils.console import as_command

logger = logging.getLogger(__name__)

METERS = re.compile(r"\| _counted")  # rows of a summary that are no part of the network
BINS = 64
VALUES = 100_000  # of a tensor: a histogram of more looks the same and takes longer


def write_texts(writer: SummaryWriter, model: LightningModule, step: int) -> None:
    """Writes the configuration, where there is one, what the model consists of, and how to go on with the run."""
    run = Path(writer.log_dir).parent
    rows = str(ModelSummary(model, max_depth=-1)).splitlines()
    summary = "\n".join(row for row in rows if not METERS.search(row))
    commands = {
        "go on with this run, if it was stopped": as_command("kindling", "fit --ckpt_path", run),
        "train it for longer": as_command("kindling", "fit --ckpt_path", run, "--trainer.max_epochs N"),
        "train the same again": as_command("kindling", "fit --config", run / "config.yaml"),
        "test its best epoch": as_command("kindling", "test --ckpt_path", run),
    }
    about = [code(summary), *(f"{what}:\n{code(how)}" for what, how in commands.items())]
    texts = {"model and commands": "\n".join(about)}
    if (config := run / "config.yaml").exists():
        texts["settings"] = code(read_text(config))
    for tag, text in texts.items():
        writer.add_text(tag, text, step)


def code(text: str) -> str:
    """Text as it is, in Markdown."""
    return "\n" + "\n".join(f"    {line}" for line in text.splitlines()) + "\n"


def write_histograms(writer: SummaryWriter, model: LightningModule, step: int) -> None:
    """Writes histograms of weights and of their gradients, where they have any."""
    for name, parameter in model.named_parameters():
        for kind, values in (("", parameter.detach()), (" (gradient)", parameter.grad)):
            if values is not None and values.numel() and values.isfinite().all():
                write_histogram(writer, f"weights/{name.removeprefix('network.')}{kind}", values, step)


def write_histogram(writer: SummaryWriter, tag: str, values: Tensor, step: int) -> None:
    """Writes one histogram; torch's `add_histogram` takes ten times as long."""
    flat = values.flatten().float()
    flat = flat[:: -(-len(flat) // VALUES)].cpu()
    counts, edges = torch.histogram(flat, BINS)
    low, high, total, squares = (float(of) for of in (flat.min(), flat.max(), flat.sum(), flat.square().sum()))
    writer.add_histogram_raw(tag, low, high, len(flat), total, squares, edges[1:].tolist(), counts.tolist(), step)


def write_network(writer: SummaryWriter, model: LightningModule, step: int) -> None:
    """Write the graph of a network, its weights, and the filters of its first convolution, where there is one.

    A model without an example of its inputs has no graph: Lightning's name for it is `example_input_array`.
    """
    write_histograms(writer, model, step)
    network = model.network if isinstance(model, BaseTask) else model
    if (filters := first_filters(network)) is not None:
        add_picture(writer, "pictures/filters of the first layer", image_grid(filters), step)
    has_shape = isinstance(model, BaseTask) and model.input_shape
    inputs = model.example_inputs() if isinstance(model, BaseTask) and has_shape else model.example_input_array
    if inputs is None:
        return
    inputs = move_data_to_device(inputs, model.device)
    compiled, network._compiled_call_impl = network._compiled_call_impl, None  # nothing compiled can be traced
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _jit_is_scripting():
            warnings.simplefilter("ignore")  # what tracing announces concerns those who run what was traced
            writer.add_graph(network, inputs)
    except Exception as error:  # a forward that is traced may fail in any way, and no run fails for a picture
        logger.warning(
            f"TensorBoard shows no graph: this network can't be traced, {(str(error).splitlines() or ['?'])[0]}"
        )
    finally:
        network._compiled_call_impl = compiled
