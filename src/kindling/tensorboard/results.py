"""What a model says of a split, as TensorBoard shows it."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from kindling.evaluation.predictions import Predictions
from kindling.tensorboard.images import add_picture, confusion_matrix, image_grid, on_a_line
from kindling.utils.inputs import to_float
from kindling.utils.pictures import are_images

Inputs = Callable[[Tensor], Tensor | None]  # of the samples with these numbers, (n, ...)

WORST = 30
CURVES = 20  # precision-recall curves at most: of the classes with the most samples
POINTS = 1000  # of the projector: as many as a browser turns smoothly
FEATURES = 200  # of a point: the projector itself looks at no more
TAG = "last_hidden_layer"
SPRITE = 32  # pixels of a side of a point's picture


def write_predictions(writer: SummaryWriter, answers: Predictions, names: Sequence[str], step: int) -> None:
    """Writes the confusion matrix and, class by class, the curve of precision against recall."""
    counts = answers.confusion if answers.confusion[:, -1].any() else answers.confusion[:, :-1]
    add_picture(writer, "pictures/confusion matrix", confusion_matrix(counts, names), step)
    largest = answers.confusion.sum(1).argsort(descending=True, stable=True)[:CURVES]
    for label in sorted(largest.tolist()):
        of_class = answers.probabilities[:, label].nan_to_num()
        writer.add_pr_curve(f"precision and recall/{on_a_line(names[label])}", answers.labels == label, of_class, step)


def write_top_losses(
    writer: SummaryWriter, answers: Predictions, inputs: Inputs, names: Sequence[str], step: int
) -> None:
    """Writes the wrong answers that gave the label the least probability: images with captions, or rows as a table.

    Args:
        writer: Of the split.
        answers: What the model said of its N samples.
        inputs: Returns the inputs (n, ...) of the samples with these numbers.
        names: Of the classes.
        step: Optimizer steps so far.
    """
    worst = answers.worst(WORST)
    if not len(worst):
        return
    said = [on_a_line(name) for name in (*names, "no answer")]
    label, guess = ([said[number] for number in of[worst].tolist()] for of in (answers.labels, answers.predictions))
    sure = [f"{confidence:.0%}" for confidence in answers.confidence[worst].tolist()]
    samples = inputs(worst)
    if samples is not None and are_images(samples):
        facts = zip(label, guess, sure, strict=True)
        captions = [(f"{name}, not", f"{other} ({share})") for name, other, share in facts]
        add_picture(writer, "pictures/most wrong", image_grid(samples, captions), step)
        return
    rows = zip(map(str, worst.tolist()), label, guess, sure, strict=True)
    table = [("row", "label", "guess", "probability"), ("---",) * 4, *rows]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in table)
    writer.add_text("most wrong", "\n".join(f"| {line} |" for line in lines), step)


def write_embeddings(
    writer: SummaryWriter, hidden: Tensor, answers: Predictions, inputs: Inputs, names: Sequence[str], step: int
) -> None:
    """Writes what the last hidden layer says of samples (N, features), for the projector."""
    chosen = torch.linspace(0, len(hidden) - 1, min(len(hidden), POINTS)).long()
    sprites = None
    if are_images(inputs(chosen[:1])):
        parts = [inputs(part) for part in torch.split(chosen, 50)]  # of photos no more are held as floats at once
        sprites = torch.cat([sprites_of(part) for part in parts if part is not None])
    said = [on_a_line(name) for name in (*names, "no answer")]
    facts = [
        [said[label], said[guess], "right" if label == guess else "wrong"]
        for label, guess in zip(answers.labels[chosen].tolist(), answers.predictions[chosen].tolist(), strict=True)
    ]
    folder = Path(writer.log_dir)
    for earlier in folder.glob(f"*/{TAG}"):
        shutil.rmtree(earlier.parent)
    (folder / "projector_config.pbtxt").unlink(missing_ok=True)  # it would be appended to
    points = principal(hidden[chosen])
    writer.add_embedding(points, facts, sprites, step, tag=TAG, metadata_header=["label", "guess", "answer"])


def sprites_of(images: Tensor) -> Tensor:
    """Small pictures (n, 3, SPRITE, SPRITE) of images (n, 1 or 3, H, W)."""
    small = F.interpolate(to_float(images), (SPRITE, SPRITE), mode="bilinear", antialias=True)
    return small.clamp(0, 1).expand(-1, 3, -1, -1)


def principal(points: Tensor) -> Tensor:
    """Points (N, features), or of many features the first principal components (N, FEATURES)."""
    if points.shape[1] <= FEATURES:
        return points
    centered = points - points.mean(0)
    axes: Tensor = torch.linalg.svd(centered, full_matrices=False).Vh[:FEATURES]  # (FEATURES, features)
    return centered @ axes.T
