"""Heat maps in the report: what each place of an image adds to a prediction."""

import io
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from kindling.evaluation.report.html import Html, element, picture
from kindling.utils.pictures import to_pil_image
from kindling.utils.tensors import to_float

logger = logging.getLogger(__name__)

EXPLAINED = 12  # samples with heat maps: with those that are right, 16 of them cost about as much as predicting 400
RIGHT = 4
SIDE = 160  # pixels of the longer side
FADED = 0.45  # of the contrast of the image below the colors
STRONGEST = 0.9  # opacity
FOR, AGAINST = torch.tensor([0.84, 0.37, 0.0]), torch.tensor([0.0, 0.45, 0.70])  # orange and blue, as in style.css

# Takes the indices of test samples (n,), their images (n, C, H, W) and weights, see `attribution_maps`.
Explain = Callable[[Tensor, Tensor, Sequence[Tensor]], list[Tensor] | None]


class HeatMap(NamedTuple):
    """A heat map of one sample.

    Attributes:
        values: What each place adds, (H, W).
        title: What it adds to.
        class_name: The class that it is about, if a sample has several maps.
    """

    values: Tensor
    title: str
    class_name: str = ""


class ExplainedScore(NamedTuple):
    """A weighted sum of the outputs that heat maps explain.

    Attributes:
        weights: The weight of each output for each sample, see `attribution_maps`.
        titles: The title of the heat map of each sample.
        class_names: The class that the heat map of each sample is about, if a sample has several.
    """

    weights: Tensor
    titles: Sequence[str]
    class_names: Sequence[str] = ()


class Explanation(NamedTuple):
    """How the predictions for some samples are explained.

    Attributes:
        explain: Computes the maps.
        scores: What the maps of a sample explain; it has no map if all weights are 0.
        against: What blue places mean.
        favor: What orange places mean.
    """

    explain: Explain
    scores: Sequence[ExplainedScore]
    against: str
    favor: str

    def maps(self, rows: Tensor, images: Tensor) -> list[list[HeatMap]]:
        """Return the heat maps of the first samples; empty if the images have no gradients."""
        number = min(len(rows), EXPLAINED)
        weights = [score.weights[:number] for score in self.scores]
        found = self.explain(rows[:number], images[:number], weights) or []
        return [
            [
                HeatMap(values[row], score.titles[row], *score.class_names[row : row + 1])
                for values, score in zip(found, self.scores, strict=True)
                if score.weights[row].any()
            ]
            for row in range(number)
            if found
        ]


def without_errors(explain: Explain) -> Explain:
    """Return a function that, after an error of the network, logs it and returns None."""
    failed = False

    def attempt(rows: Tensor, images: Tensor, weights: Sequence[Tensor]) -> list[Tensor] | None:
        nonlocal failed
        try:
            return None if failed else explain(rows, images, weights)
        except RuntimeError as error:
            failed = True
            reason = str(error).partition("\n")[0] or type(error).__name__
            logger.warning(f"the report has no heat maps: {reason}")
            return None

    return attempt


def heat_picture(image: Tensor, heat: HeatMap) -> Html:
    """Return a heat map over the faded image (C, H, W), relative to its strongest place."""
    file = io.BytesIO()
    base = to_pil_image(image, SIDE).convert("L")
    gray = to_float(torch.frombuffer(bytearray(base.tobytes()), dtype=torch.uint8)).view(base.height, base.width)
    strength = F.interpolate(heat.values[None, None], gray.shape, mode="bilinear")[0, 0]
    strength = strength / strength.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    faded = 0.5 + FADED * (gray - 0.5)
    color = torch.where(strength[..., None] > 0, FOR, AGAINST)  # (H, W, 3)
    mixed = faded[..., None].lerp(color, STRONGEST * strength.abs()[..., None])
    Image.fromarray((mixed * 255).round().to(torch.uint8).numpy()).save(file, "JPEG", quality=85)
    return picture(file.getvalue(), "jpeg", alt=f"heat map: {heat.title}", title=heat.title, class_="large")


def legend(against: str, favor: str) -> Html:
    """Return the color scale, given what blue and orange places mean."""
    bar = element("span", class_="scale", role="img", aria_label="color scale from blue through gray to orange")
    return element("p", element("span", against), bar, element("span", favor), class_="soft legend")
