"""The worst predictions in the report: images with captions, or rows as a table."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.loading import inputs_of
from kindling.evaluation.predictions import NO_PREDICTION, Predictions
from kindling.evaluation.report.html import Html, element, join, name_cell, png, table
from kindling.utils.pictures import are_images, to_pil_image
from kindling.utils.text import count_noun

SHOWN = 24
SMALL = 96  # pixels; smaller images are enlarged without interpolation
LARGE = 256  # pixels; larger images are reduced: 24 photos as PNG had 15 MB


class Wrong(NamedTuple):
    """A wrong prediction."""

    row: int
    name: object
    label: str
    prediction: str
    probability: str


def worst_predictions(predictions: Predictions, data: BaseDataModule, class_names: Sequence[str]) -> Html:
    """Return the test samples whose labels had the lowest probabilities."""
    mistakes = int((~predictions.correct).sum())
    if not mistakes:
        return element("p", "All predictions are correct.")
    worst, row_names, names = predictions.worst(SHOWN), data.tested_rows(), [*class_names, NO_PREDICTION]
    columns = (part[worst].tolist() for part in (predictions.labels, predictions.classes, predictions.confidence))
    samples = [
        Wrong(row, row_names[row], names[label], names[prediction], f"{confidence:.1%}")
        for row, label, prediction, confidence in zip(worst.tolist(), *columns, strict=True)
    ]
    total = count_noun(mistakes, "wrong prediction", "wrong predictions")
    intro = f"{len(worst)} of {total}, in order of the probability of the label."
    inputs = inputs_of(data.test, worst)
    if inputs is None or not are_images(inputs):
        return join([element("p", intro, class_="soft"), sample_table(samples, data)])
    intro += " Captions: label → prediction (its probability)."
    return join([element("p", intro, class_="soft"), image_sheet(samples, inputs, data)])


def image_sheet(samples: Sequence[Wrong], images: Tensor, data: BaseDataModule) -> Html:
    """Return images (n, C, H, W), uint8 or floats in [0, 1], with captions."""
    figures = []
    for sample, image in zip(samples, images, strict=True):
        side, file = max(image.shape[1:]), io.BytesIO()
        to_pil_image(image, min(side, LARGE)).save(file, "PNG")
        text = [element("b", sample.label), " → ", element("b", sample.prediction), f" ({sample.probability})"]
        caption = element("figcaption", *text, element("br"), f"{data.row_header} {sample.name}")
        image_element = png(file.getvalue(), alt="", class_="small" if side < SMALL else "large")
        figures.append(element("figure", image_element, caption))
    return element("div", *figures, class_="sheet")


def sample_table(samples: Sequence[Wrong], data: BaseDataModule) -> Html:
    """Return a table of samples that are not images, with the features that the data module describes."""
    descriptions = [data.describe(sample.row) for sample in samples]
    features = list(dict.fromkeys(feature for description in descriptions for feature in description))
    rows = (
        [
            name_cell(sample.name),
            *(element("td", text, class_="name") for text in (sample.label, sample.prediction)),
            element("td", sample.probability),
            *(element("td", description.get(feature, "")) for feature in features),
        ]
        for sample, description in zip(samples, descriptions, strict=True)
    )
    return table([data.row_header, "label", "prediction", "probability", *features], rows, class_="list names-3")
