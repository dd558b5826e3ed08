"""Pictures for people to look at: sheets of images with captions, filters, and a confusion matrix."""

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from kindling.utils.pictures import to_pil_image

SIDE = 96  # pixels of the longer side of an image on a sheet
GAP, LINE = 6, 19  # pixels between images; height of a line of a caption
FONT = 16  # pixels: TensorBoard shows a page at half its size
PAPER = (226, 232, 240)  # neither black nor white, which filters and digits have at their edges
LONGEST = 16  # letters of the name of a class in a picture
MOST_NUMBERS = 20  # classes of a confusion matrix that has room for numbers


def image_grid(images: Tensor, captions: Sequence[Sequence[str]] = (), columns: int = 6) -> Image.Image:
    """Images side by side, with lines of text under each.

    Args:
        images: Bytes or floats in [0, 1], shape (N, C, H, W), C being 1 or 3.
        captions: The lines of each image.
        columns: Images in a row.
    """
    shown = [to_pil_image(image, SIDE) for image in images]
    lines = max(map(len, captions), default=0)
    width, height = shown[0].width + GAP, shown[0].height + lines * LINE + GAP
    rows = -(-len(shown) // columns)
    page = Image.new("RGB", (min(columns, len(shown)) * width + GAP, rows * height + GAP), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT)
    for number, image in enumerate(shown):
        left, top = GAP + number % columns * width, GAP + number // columns * height
        page.paste(image, (left, top))
        for line, text in enumerate(captions[number] if captions else ()):
            while text and font.getlength(text) > image.width:
                text = f"{text[:-2]}…" if len(text) > 2 else ""
            draw.text((left, top + image.height + line * LINE), text, "black", font)
    return page


def first_filters(network: nn.Module, most: int = 64) -> Tensor | None:
    """The filters of the first convolution as images (N, C, h, w) in [0, 1], 0.5 being zero; None where there is none.

    Those for 3 channels are in colour; of other numbers of channels the first one is shown.
    """
    layers = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    if (layer := next(layers, None)) is None:
        return None
    filters = layer.weight.detach()[:most].float()  # (out, in, h, w)
    filters = filters if filters.shape[1] == 3 else filters[:, :1]
    return 0.5 + 0.5 * filters / filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def confusion_matrix(counts: Tensor, names: Sequence[str]) -> Image.Image:
    """Samples by label, in rows, and prediction, in columns; the colour is the share of the row.

    Args:
        counts: Shape (classes, answers); a column beyond the classes is of samples without an answer.
        names: Of the classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [short(name) for name in names]
    answers = [*names, "no answer"][: counts.shape[1]]
    side = 1.6 + 0.26 * min(len(names), MOST_NUMBERS)  # inches, so that what TensorBoard shrinks can still be read
    figure = Figure(figsize=(side, side), dpi=150, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="label")
    if len(names) <= MOST_NUMBERS:
        turned = 90 if max(map(len, answers)) > 3 else 0
        axes.set_xticks(range(len(answers)), answers, rotation=turned, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        for label, answer in counts.nonzero().tolist():
            colour = "white" if shares[label, answer] > 0.5 else "black"
            axes.text(answer, label, f"{counts[label, answer]:,}", ha="center", va="center", color=colour, fontsize=8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font has not: boxes stand for it
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels).convert("RGB")


def on_a_line(name: str) -> str:
    """A name without line breaks and tabs."""
    return " ".join(name.split())


def short(name: str) -> str:
    """A name on one line, its end left out where it is long."""
    line = on_a_line(name)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def add_picture(writer: SummaryWriter, tag: str, picture: Image.Image, step: int) -> None:
    """Writes a picture."""
    writer.add_image(tag, np.asarray(picture), step, dataformats="HWC")
