"""Images for TensorBoard: sheets of samples with captions, filters, and the confusion matrix."""

import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from kindling.evaluation.predictions import NO_PREDICTION
from kindling.utils.pictures import to_pil_image
from kindling.utils.text import shorten

COLUMNS = 6  # images in a row of a sheet
SIDE = 96  # longer side of an image on a sheet, in pixels
GAP, LINE = 6, 19  # pixels between images; height of a caption line in pixels
FONT = 16  # pixels: TensorBoard shows a sheet at half its size
BACKGROUND = (226, 232, 240)  # neither black nor white, as the edges of filters and digits are
MAX_FILTERS = 64  # that are shown
NAME_LENGTH = 16  # characters of a class name in the confusion matrix
MAX_LABELED_CLASSES = 20  # more leave no room for names and numbers in the confusion matrix


def image_grid(images: Tensor, captions: Sequence[Sequence[str]] = ()) -> Image.Image:
    """Return a sheet of images (N, 1 or 3, H, W), uint8 or floats in [0, 1], with lines of text under each."""
    pictures = [to_pil_image(image, SIDE) for image in images]
    lines = max(map(len, captions), default=0)
    width, height = pictures[0].width + GAP, pictures[0].height + lines * LINE + GAP
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(pictures)) * width + GAP, rows * height + GAP), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for number, picture in enumerate(pictures):
        left, top = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        sheet.paste(picture, (left, top))
        for line, text in enumerate(captions[number] if captions else ()):
            while text and font.getlength(text) > picture.width:
                text = f"{text[:-2]}…" if len(text) > 2 else ""
            draw.text((left, top + picture.height + line * LINE), text, "black", font)
    return sheet


def first_filters(network: nn.Module) -> Tensor | None:
    """Return the filters of the first convolution as images (N, C, h, w) in [0, 1]; None without a convolution.

    0.5 stands for zero. Filters of 3 channels are in color; of others, the first channel is returned.
    """
    layers = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    if (layer := next(layers, None)) is None:
        return None
    filters = layer.weight.detach()[:MAX_FILTERS].float()  # (out, in, h, w)
    filters = filters if filters.shape[1] == 3 else filters[:, :1]
    return 0.5 + 0.5 * filters / filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def confusion_figure(counts: Tensor, names: Sequence[str]) -> Figure:
    """Return a plot of the confusion matrix, labels in rows; the color is the share of the row.

    The last column of the counts, (classes, classes + 1), is that of NaN.
    """
    names = [shorten(name, NAME_LENGTH) for name in names]
    columns = [*names, NO_PREDICTION] if counts[:, -1].any() else names
    counts = counts[:, : len(columns)]
    side = 1.6 + 0.26 * min(len(names), MAX_LABELED_CLASSES)  # inches; small, as TensorBoard shrinks the image
    figure = Figure(figsize=(side, side), dpi=150, layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="label")
    if len(names) <= MAX_LABELED_CLASSES:
        rotation = 90 if max(map(len, columns)) > 3 else 0
        axes.set_xticks(range(len(columns)), columns, rotation=rotation, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        for label, column in counts.nonzero().tolist():
            color = "white" if shares[label, column] > 0.5 else "black"
            axes.text(column, label, f"{counts[label, column]:,}", ha="center", va="center", color=color, fontsize=8)
    return figure


def add_picture(writer: SummaryWriter, tag: str, picture: Image.Image, step: int) -> None:
    """Write a PIL image."""
    writer.add_image(tag, np.asarray(picture), step, dataformats="HWC")


def add_plot(writer: SummaryWriter, tag: str, plot: Figure, step: int) -> None:
    """Write a plot; the font shows boxes for the characters that it lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        writer.add_figure(tag, plot, step)
