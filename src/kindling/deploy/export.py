"""`kindling export`: convert a checkpoint to a file for other programs, after checking that its outputs are equal."""

import shutil
import tempfile
from pathlib import Path
from typing import Literal, cast

import torch
from rich.console import Console
from torch import Tensor, nn

from kindling.deploy.export_wrapper import ExportWrapper, Inputs
from kindling.deploy.formats import FORMATS
from kindling.deploy.model_card import read_card
from kindling.deploy.verify import BATCH_SIZES, compare, first
from kindling.deploy.verify_photos import check_takes_photos, compare_photos
from kindling.deploy.verify_rows import compare_rows
from kindling.models import BaseTask
from kindling.models.loading import load_model
from kindling.runs.checkpoints import read_checkpoint
from kindling.runs.find_checkpoint import find_checkpoint
from kindling.runs.folders import run_folder_of
from kindling.utils.console import progress, say
from kindling.utils.files import atomic_write, check_writable
from kindling.utils.trees import tree_leaves


def export(
    ckpt_path: str = "best",
    format: Literal["onnx", "torch_export", "torchscript", "torchserve"] = "onnx",
    out: str | None = None,
    raw: bool = False,
) -> None:
    """Write a checkpoint as a file that takes raw inputs and returns probabilities and logits, or predictions.

    The file includes normalization and softmax; numbers are in the units of the targets. It takes batches of any size,
    and contains the names of the classes or of the target, the input shape and the test metrics. It is only written if
    its outputs equal those of the checkpoint.

    With --raw, the ONNX file of a model of images takes the pixels of one photograph of any size, and its EXIF
    orientation. That of a table takes raw rows anyway.

    Args:
        ckpt_path: Checkpoint: best, last (of the newest run), a run folder or a file.
        format: onnx runs anywhere; torch_export in PyTorch. Legacy: torchscript, which torch has deprecated, and
            torchserve, an archive (.mar) for a server that had its last release in 2024.
        out: File to write (default: model.* in the folder export/ of the run).
        raw: Whether an ONNX file of a model of images turns, resizes, crops and normalizes photographs.
    """
    chosen = FORMATS[format]
    if raw and not chosen.write_raw:
        raise ValueError(f"--raw works only with --format onnx, got {format}")
    path = find_checkpoint(ckpt_path)
    target = Path(out) if out else run_folder_of(path) / "export" / f"model{chosen.suffix}"
    if target.suffix != chosen.suffix:
        raise ValueError(f"--out must end in {chosen.suffix} for --format {format}, got {target.name}")
    try:
        check_writable(target)  # fail before converting for minutes
    except OSError as error:
        raise OSError(f"can't write {target} ({error.strerror}): set --out to a file in another folder") from error
    if chosen.legacy:
        say(f"legacy: {chosen.legacy}; prefer --format onnx")
    with progress(f"loading {path}"):
        stored = read_checkpoint(path)
        model = load_model(path, stored)
    samples = some_inputs(model, max(BATCH_SIZES))
    wrapper = ExportWrapper(model).eval()
    chosen.check(wrapper)
    card = read_card(path, stored, model)
    if raw and not card.takes_rows:
        check_takes_photos(wrapper, card)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, target.name)
        with progress(f"converting {card.model} to {format}"):
            (chosen.write_raw if raw and chosen.write_raw else chosen.write)(wrapper, first(samples, 2), card, file)
        with progress(f"comparing {target.name} with the checkpoint"):
            if chosen.takes_columns and card.takes_rows:
                comparison = compare_rows(wrapper, chosen.read(file), card, stored, path)
            elif raw:
                comparison = compare_photos(wrapper, chosen.read(file), card, stored, path)
            else:
                comparison = compare(wrapper, chosen.read(file), samples)
        table = comparison.table(f"{target}", format)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            shutil.copyfile(file, temporary)
    with (
        atomic_write(target.with_name(f"{target.name}.txt")) as temporary,
        temporary.open("w", encoding="utf-8") as text,
    ):
        Console(file=text, width=100, force_jupyter=False).print(table)
    say(table)
    say(f"exported: {target}, {target.stat().st_size / 1e6:,.1f} MB")


def some_inputs(model: BaseTask, number: int) -> Inputs:
    """Return random inputs for the comparison, `number` samples, in the range of the training data.

    Integers, such as tokens, are those of the model's `example_input_array`.

    Raises:
        ValueError: If neither the shape nor an example of the inputs is known.
    """
    random = torch.Generator().manual_seed(0)
    if isinstance(members := getattr(model.core, "members", None), nn.ModuleList):
        # The members of an ensemble know the range of the inputs.
        parts = [some_inputs(cast(BaseTask, member), number) for member in members]
        return (torch.cat([part[0] for part in parts], dim=1),) if model.core.widths else parts[0]
    if len(shape := model.sample_shape) == 3:
        return (torch.rand(number, *shape, generator=random),)
    if shape and model.example_input_array is None:
        return (model.mean + model.std * torch.randn(number, *shape, generator=random),)
    if not model.has_example:
        raise ValueError(
            f"{type(model).__name__} does not say what its inputs look like: set self.example_input_array in its "
            "__init__ to one sample, such as torch.zeros(1, 3, 8, 8), or (torch.zeros(1, 3, 8, 8), torch.zeros(1, 5)) "
            "for two inputs; you need not retrain the model"
        )
    return tuple(_like(each, number, random) for each in tree_leaves(model.example_inputs()))


def _like(example: Tensor, number: int, random: torch.Generator) -> Tensor:
    if example.is_floating_point():
        return torch.randn(number, *example.shape[1:], generator=random)
    return example[:1].expand(number, *example.shape[1:]).clone()
