"""Test samples with their predictions in the report: images with captions, or rows as a table."""

import io
from collections.abc import Mapping, Sequence

from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.datasets import inputs_of
from kindling.evaluation.report.heat_maps import Explanation, HeatMap, heat_picture, legend
from kindling.evaluation.report.html import Html, element, join, name_cell, picture, table
from kindling.utils.pictures import are_images, to_pil_image

NO_CLASS = "none"  # of the classes of a sample
SHOWN = 24
SMALL = 96  # pixels; smaller images are enlarged without interpolation
LARGE = 256  # pixels; larger images are reduced, and stored as JPEG: 24 photos as PNG had 15 MB
Columns = Mapping[str, Sequence[str]]  # strings (n,) of three columns by title: truth, prediction, remark


def show_samples(
    rows: Tensor,
    columns: Columns,
    intro: str,
    remark: str,
    data: BaseDataModule,
    explanation: Explanation | None = None,
) -> Html:
    """Return test samples by index (n,) below an introduction.

    `remark` explains the third of the columns in the captions of images; `explanation`, the predictions for images.
    """
    row_names = data.tested_rows()
    names = [row_names[row] for row in rows.tolist()]
    inputs = inputs_of(data.test, rows)
    if inputs is not None and are_images(inputs):
        truth, prediction, _ = columns
        intro += f" Captions: {truth} → {prediction} ({remark})."
        maps = explanation.maps(rows, inputs) if explanation else []
        content = image_sheet(names, columns, inputs, data.row_header, maps)
        if maps and explanation:
            intro += " Heat maps show what each place of an image adds, relative to the strongest place."
            content = join([legend(explanation.against, explanation.favor), content])
    else:
        content = sample_table(names, columns, [data.sample_details(row) for row in rows.tolist()], data.row_header)
    return join([element("p", intro, class_="soft"), content])


def image_sheet(
    names: Sequence[object],
    columns: Columns,
    images: Tensor,
    row_header: str,
    maps: Sequence[Sequence[HeatMap]],
) -> Html:
    """Return images (n, C, H, W), uint8 or floats in [0, 1], with captions, the first ones beside their heat maps."""
    figures = []
    for number, (name, truth, prediction, remark) in enumerate(zip(names, *columns.values(), strict=True)):
        pictures = [image_element(images[number])]
        if number < len(maps):
            for heat in maps[number]:
                shown = heat_picture(images[number], heat)
                pictures.append(element("span", shown, heat.class_name) if heat.class_name else shown)
        text = [element("b", truth), " → ", element("b", prediction), f" ({remark})"]
        caption = element("figcaption", *text, element("br"), f"{row_header} {name}")
        figures.append(element("figure", element("div", *pictures), caption))
    explained = element("div", *figures[: len(maps)], class_="sheet explained") if maps else Html()
    return join([explained, element("div", *figures[len(maps) :], class_="sheet")])


def image_element(image: Tensor) -> Html:
    """Return an image (C, H, W), reduced to `LARGE` pixels; its caption tells what it is."""
    side, file = max(image.shape[1:]), io.BytesIO()
    kind, size = ("png", "small") if side < SMALL else ("jpeg", "large")
    to_pil_image(image, min(side, LARGE)).save(file, kind, quality=90)
    return picture(file.getvalue(), kind, alt="", class_=size)


def sample_table(
    names: Sequence[object], columns: Columns, descriptions: Sequence[Mapping[str, object]], row_header: str
) -> Html:
    """Return a table of samples that are not images, with their features."""
    described = dict.fromkeys(feature for description in descriptions for feature in description)
    features = [feature for feature in described if feature not in columns]  # a table describes the target, too
    rows = (
        [
            name_cell(name),
            *(element("td", text, class_="name") for text in (truth, prediction)),
            element("td", remark),
            *(element("td", "" if (value := description.get(feature)) is None else value) for feature in features),
        ]
        for name, truth, prediction, remark, description in zip(names, *columns.values(), descriptions, strict=True)
    )
    return table([row_header, *columns, *features], rows, class_="list names-3")
