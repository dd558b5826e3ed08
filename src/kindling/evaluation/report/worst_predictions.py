"""The worst predictions in the report: images with captions, or rows as a table."""

import io
from collections.abc import Mapping, Sequence

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
Sample = tuple[object, str, str, str]  # name, label, prediction and its probability


def worst_predictions(predictions: Predictions, data: BaseDataModule, class_names: Sequence[str]) -> Html:
    """Return the test samples whose labels had the lowest probabilities."""
    mistakes = int((~predictions.correct).sum())
    if not mistakes:
        return element("p", "All predictions are correct.")
    worst = predictions.worst(SHOWN)
    names = [*class_names, NO_PREDICTION]
    labels, classes = (
        [names[label] for label in part[worst].tolist()] for part in (predictions.labels, predictions.classes)
    )
    confidence = [f"{value:.1%}" for value in predictions.confidence[worst].tolist()]
    row_names = data.tested_rows()
    samples = list(zip([row_names[row] for row in worst.tolist()], labels, classes, confidence, strict=True))
    total = count_noun(mistakes, "wrong prediction", "wrong predictions")
    shown = total if len(worst) == mistakes else f"{len(worst)} of {total}"
    intro = f"{shown}, lowest probability of the label first."
    inputs = inputs_of(data.test, worst)
    if inputs is not None and are_images(inputs):
        intro += " Captions: label → prediction (its probability)."
        content = image_sheet(samples, inputs, data.row_header)
    else:
        content = sample_table(samples, [data.describe(row) for row in worst.tolist()], data.row_header)
    return join([element("p", intro, class_="soft"), content])


def image_sheet(samples: Sequence[Sample], images: Tensor, row_header: str) -> Html:
    """Return images (n, C, H, W), uint8 or floats in [0, 1], with captions."""
    figures = []
    for (name, label, prediction, confidence), image in zip(samples, images, strict=True):
        side, file = max(image.shape[1:]), io.BytesIO()
        to_pil_image(image, min(side, LARGE)).save(file, "PNG")
        picture = png(file.getvalue(), alt="", class_="small" if side < SMALL else "large")
        text = [element("b", label), " → ", element("b", prediction), f" ({confidence})"]
        caption = element("figcaption", *text, element("br"), f"{row_header} {name}")
        figures.append(element("figure", picture, caption))
    return element("div", *figures, class_="sheet")


def sample_table(samples: Sequence[Sample], descriptions: Sequence[Mapping[str, object]], row_header: str) -> Html:
    """Return a table of samples that are not images, with their features."""
    features = list(dict.fromkeys(feature for description in descriptions for feature in description))
    rows = (
        [
            name_cell(name),
            *(element("td", text, class_="name") for text in (label, prediction)),
            element("td", confidence),
            *(element("td", description.get(feature, "")) for feature in features),
        ]
        for (name, label, prediction, confidence), description in zip(samples, descriptions, strict=True)
    )
    return table([row_header, "label", "prediction", "probability", *features], rows, class_="list names-3")
