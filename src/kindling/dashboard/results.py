"""What a model says of a split, as TensorBoard shows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from kindling.dashboard.pictures import add_picture, confusion_matrix, is_picture, sheet
from kindling.inputs import as_float
from kindling.report.figures import Answers

WORST = 30
CURVES = 20  # precision-recall curves at most: of the classes with the most samples
POINTS = 1000  # of the projector: as many as a browser turns smoothly
SPRITE = 32  # pixels of a side of a point's picture


def write_answers(writer: SummaryWriter, answers: Answers, names: Sequence[str], step: int) -> None:
    """Writes the confusion matrix and, class by class, the curve of precision against recall."""
    counts = answers.confusion if answers.confusion[:, -1].any() else answers.confusion[:, :-1]
    add_picture(writer, "pictures/confusion matrix", confusion_matrix(counts, names), step)
    largest = answers.confusion.sum(1).argsort(descending=True, stable=True)[:CURVES]
    for label in sorted(largest.tolist()):
        of_class = answers.probabilities[:, label].nan_to_num()
        writer.add_pr_curve(f"precision and recall/{names[label]}", answers.labels == label, of_class, step)


def write_worst(writer: SummaryWriter, answers: Answers, inputs: Any, names: Sequence[str], step: int) -> None:
    """Writes the wrong answers that gave the label the least probability: images with captions, or rows as a table.

    Args:
        writer: Of the split.
        answers: What the model said of its N samples.
        inputs: The samples, (N, ...), indexed by a tensor.
        names: Of the classes.
        step: Optimizer steps so far.
    """
    worst = answers.worst(WORST)
    if not len(worst):
        return
    said = [*names, "no answer"]
    label, guess = ([said[number] for number in of[worst].tolist()] for of in (answers.labels, answers.predictions))
    sure = [f"{confidence:.0%}" for confidence in answers.confidence[worst].tolist()]
    samples = inputs[worst]
    if is_picture(samples):
        captions = [
            (f"{name}, not", f"{other} ({share})") for name, other, share in zip(label, guess, sure, strict=True)
        ]
        add_picture(writer, "pictures/most wrong", sheet(samples, captions), step)
        return
    rows = zip(worst.tolist(), label, guess, sure, strict=True)
    lines = [
        "| row | label | guess | probability |",
        "|---|---|---|---|",
        *("| {} | {} | {} | {} |".format(*row) for row in rows),
    ]
    writer.add_text("most wrong", "\n".join(lines), step)


def write_hidden(
    writer: SummaryWriter, hidden: Tensor, answers: Answers, inputs: Any, names: Sequence[str], step: int
) -> None:
    """Writes what the last hidden layer says of samples (N, features), for the projector."""
    chosen = torch.linspace(0, len(hidden) - 1, min(len(hidden), POINTS)).long()
    samples = inputs[chosen]
    pictures = None
    if is_picture(samples):
        pictures = F.interpolate(as_float(samples), (SPRITE, SPRITE), mode="bilinear", antialias=True).clamp(0, 1)
        pictures = pictures.expand(-1, 3, -1, -1)
    said = [*names, "no answer"]
    facts = [
        [said[label], said[guess], "right" if label == guess else "wrong"]
        for label, guess in zip(answers.labels[chosen].tolist(), answers.predictions[chosen].tolist(), strict=True)
    ]
    Path(writer.log_dir, "projector_config.pbtxt").unlink(missing_ok=True)  # of an earlier test: it is appended to
    writer.add_embedding(
        hidden[chosen], facts, pictures, step, tag="last_hidden_layer", metadata_header=["label", "guess", "answer"]
    )
