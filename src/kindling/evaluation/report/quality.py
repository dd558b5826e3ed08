"""Test images that are blank, very dark, very bright or blurred, in the report."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.checks.quality import find_faults
from kindling.data.datasets import ArrayDataset, batches_of, inputs_of
from kindling.evaluation.report.html import Html, element, section
from kindling.evaluation.report.samples import image_element
from kindling.utils.tensors import evenly_spaced

MAX_IMAGES = 2000  # that are measured: a test should not take much longer for it
SHOWN = 8  # of each fault


def quality_section(data: BaseDataModule, tested: int, wrong: Tensor | None) -> Iterator[Html]:
    """Yield a section about faulty images among the first N `tested` ones of the test split, if there are any.

    `wrong` says whether the prediction for each of them is wrong, (N,); None if predictions are numbers.
    """
    if not isinstance(data.test, ArrayDataset) or data.test.inputs[torch.tensor([0])].dtype != torch.uint8:
        return
    rows = evenly_spaced(tested, MAX_IMAGES)
    number = len(rows)
    faults = find_faults(batches_of(data.test.inputs, rows))
    if not faults:
        return
    content = []
    for fault, places in faults.items():
        found = rows[places]
        text = f"{len(found):,} of {number:,} test images {'are' if len(found) > 1 else 'is'} {fault}"
        if wrong is not None:
            shares = [f"{part.float().mean():.1%}" for part in (wrong[found], wrong)]
            text += f"; predictions are wrong for {shares[0]} of them and {shares[1]} of all"
        content += [element("p", f"{text}."), _sheet(found[:SHOWN], data)]
    note = "kindling check lists faulty images of all splits, and duplicates across splits and classes."
    yield section("Image quality", *content, element("p", note, class_="soft"))


def _sheet(rows: Tensor, data: BaseDataModule) -> Html:
    images, names = inputs_of(data.test, rows), data.tested_rows()
    assert images is not None
    figures = (
        element("figure", image_element(image), element("figcaption", f"{data.row_header} {names[row]}"))
        for image, row in zip(images, rows.tolist(), strict=True)
    )
    return element("div", *figures, class_="sheet")
