"""The samples that a model got most wrong: images as a sheet, rows as a table."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from kindling.data import ClassificationDataModule
from kindling.data.datamodule import as_float
from kindling.report.figures import Answers
from kindling.report.html import Html, element, join, name_cell, table

AT_MOST = 24
SMALL = 96  # pixels; smaller images are shown larger, pixel by pixel


def most_wrong(answers: Answers, data: ClassificationDataModule, class_names: tuple[str, ...]) -> Html:
    """The wrong answers with the highest loss."""
    worst = answers.worst(AT_MOST)
    mistakes = int((~answers.right).sum())
    if not mistakes:
        return element("p", "Not one answer is wrong.")
    names = [data.tested_rows()[row] for row in worst.tolist()]
    labels = [class_names[label] for label in answers.labels[worst].tolist()]
    predictions = [class_names[prediction] for prediction in answers.predictions[worst].tolist()]
    sure = [f"{confidence:.1%}" for confidence in answers.confidence[worst].tolist()]
    intro = element(
        "p",
        f"{len(worst)} of {mistakes:,} wrong answers: those that gave the label the lowest probability.",
        class_="soft",
    )
    inputs = data.test.inputs[worst]
    if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
        figures = (
            element(
                "figure",
                picture(image),
                element(
                    "figcaption",
                    *(element("b", label), ", said ", element("b", prediction), f" ({share})"),
                    *(element("br"), f"{data.row_header} {name}"),
                ),
            )
            for image, name, label, prediction, share in zip(inputs, names, labels, predictions, sure, strict=True)
        )
        return join([intro, element("div", *figures, class_="sheet")])
    facts = [data.describe(row) for row in worst.tolist()]
    known = list(dict.fromkeys(fact for sample in facts for fact in sample))
    rows = (
        [
            name_cell(name),
            *(element("td", text, class_="name") for text in (label, prediction)),
            *(element("td", value) for value in (share, *(sample.get(fact, "") for fact in known))),
        ]
        for name, label, prediction, share, sample in zip(names, labels, predictions, sure, facts, strict=True)
    )
    return join([intro, table([data.row_header, "label", "prediction", "probability", *known], rows, class_="list")])


def picture(image: Tensor) -> Html:
    """An image (C, H, W) of bytes or floats in [0, 1] as an `img` element that holds its own PNG."""
    pixels = (as_float(image).clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)  # (H, W, C)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1).cpu().numpy()).save(file, "PNG")
    kind = "small" if max(image.shape[1:]) < SMALL else "large"
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return element("img", src=source, alt="", class_=kind)
