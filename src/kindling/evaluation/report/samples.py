"""The samples that a model got most wrong: images as a sheet, rows as a table."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.loading import inputs_of
from kindling.evaluation.predictions import Predictions
from kindling.evaluation.report.classes import NO_ANSWER
from kindling.evaluation.report.html import Html, element, join, name_cell, table
from kindling.utils.pictures import are_images, to_pil_image

AT_MOST = 24
SMALL = 96  # pixels; smaller images are shown larger, pixel by pixel
LARGE = 256  # pixels; larger images are shown smaller: 24 photos as PNG had 15 MB


class Wrong(NamedTuple):
    """A sample that was taken for something else."""

    row: int
    name: object
    label: str
    prediction: str
    probability: str


def most_wrong(answers: Predictions, data: BaseDataModule, class_names: tuple[str, ...]) -> Html:
    """The wrong answers with the highest loss."""
    mistakes = int((~answers.right).sum())
    if not mistakes:
        return element("p", "Not one answer is wrong.")
    worst, names = answers.worst(AT_MOST), data.tested_rows()
    facts = zip(*(of[worst].tolist() for of in (answers.labels, answers.predictions, answers.confidence)), strict=True)
    samples = [
        Wrong(row, names[row], class_names[label], (*class_names, NO_ANSWER)[prediction], f"{confidence:.1%}")
        for row, (label, prediction, confidence) in zip(worst.tolist(), facts, strict=True)
    ]
    intro = f"{len(worst)} of {mistakes:,} wrong answers: those that gave the label the lowest probability."
    inputs = inputs_of(data.test, worst)
    shown = sample_table(samples, inputs, data) if inputs is not None and are_images(inputs) else rows(samples, data)
    return join([element("p", intro, class_="soft"), shown])


def sample_table(samples: Sequence[Wrong], images: Tensor, data: BaseDataModule) -> Html:
    """Images (n, C, H, W), each with what it is and what it was taken for."""
    figures = []
    for sample, image in zip(samples, images, strict=True):
        said = [element("b", sample.label), ", said ", element("b", sample.prediction), f" ({sample.probability})"]
        caption = element("figcaption", *said, element("br"), f"{data.row_header} {sample.name}")
        figures.append(element("figure", picture(image), caption))
    return element("div", *figures, class_="sheet")


def rows(samples: Sequence[Wrong], data: BaseDataModule) -> Html:
    """Samples that are no images, with the facts that the data module knows them by."""
    facts = [data.describe(sample.row) for sample in samples]
    known = list(dict.fromkeys(fact for described in facts for fact in described))
    cells = (
        [
            name_cell(sample.name),
            *(element("td", text, class_="name") for text in (sample.label, sample.prediction)),
            *(element("td", value) for value in (sample.probability, *(described.get(fact, "") for fact in known))),
        ]
        for sample, described in zip(samples, facts, strict=True)
    )
    return table([data.row_header, "label", "prediction", "probability", *known], cells, class_="list names-3")


def picture(image: Tensor) -> Html:
    """An image (C, H, W) of bytes or floats in [0, 1] as an `img` element that holds its own PNG."""
    side, file = max(image.shape[1:]), io.BytesIO()
    to_pil_image(image, min(side, LARGE)).save(file, "PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return element("img", src=source, alt="", class_="small" if side < SMALL else "large")
