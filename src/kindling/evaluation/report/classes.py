"""What the report says of the classes: the scores of each, and which are taken for which."""

import math

from torch import Tensor

from kindling.evaluation.report.html import Html, element, join, name_cell, table
from kindling.evaluation.report.statistics import class_scores

MATRIX_CLASSES = 20  # more have no room in a matrix
CONFUSIONS = 20
NO_ANSWER = "no answer"


def class_table(confusion: Tensor, names: tuple[str, ...]) -> Html:
    """Samples, precision, recall and F1 of each class.

    Args:
        confusion: Samples by label and prediction, see `Answers.confusion`.
        names: Names of the classes.
    """
    right, samples, answers = confusion.diag(), confusion.sum(1), confusion.sum(0)[:-1]
    scores = zip(*(score.tolist() for score in class_scores(right, samples, answers)), strict=True)
    rows = (
        [name_cell(name), element("td", f"{number:,}"), *map(share_cell, shares)]
        for name, number, shares in zip(names, samples.tolist(), scores, strict=True)
    )
    return table(["class", "samples", "precision", "recall", "F1"], rows, class_="list")


def confusions(confusion: Tensor, names: tuple[str, ...]) -> Html:
    """Labels against predictions: a matrix, or of many classes, the most frequent confusions."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    answers = (*names, NO_ANSWER) if confusion[:, -1].any() else names
    return (matrix if len(names) <= MATRIX_CLASSES else confusion_list)(confusion, shares, names, answers)


def matrix(confusion: Tensor, shares: Tensor, names: tuple[str, ...], answers: tuple[str, ...]) -> Html:
    """Counts on the share of their row as colour: blue where the prediction is right, orange where it is wrong."""
    rows = (
        [
            element("th", names[label], scope="row", title=names[label]),
            *(
                matrix_cell(count, share, names[label], name, answer == label)
                for answer, (count, share, name) in enumerate(zip(counts, row, answers, strict=False))
            ),
        ]
        for label, (counts, row) in enumerate(zip(confusion.tolist(), shares.tolist(), strict=True))
    )
    kind = "upright" if max(map(len, answers)) > 3 else "level"
    header = ["", *(element("span", name, title=name, class_=kind) for name in answers)]
    intro = "Rows are labels, columns predictions; the stronger a colour, the larger the share of its row."
    return join([element("p", intro, class_="soft"), table(header, rows, class_="matrix")])


def matrix_cell(count: int, share: float, label: str, prediction: str, right: bool) -> Html:
    """One cell of the matrix; nothing in it says that it is empty."""
    if not count:
        return element("td")
    strength = 0.15 + 0.85 * math.sqrt(share)  # so that a share of 1% can be seen
    kind = ("right" if right else "wrong") + (" full" if strength > 0.65 else "")
    title = f"{label} predicted as {prediction}: {count:,}, {share:.1%} of {label}"
    return element("td", f"{count:,}", class_=kind, style=f"--share: {strength:.2f}", title=title)


def confusion_list(confusion: Tensor, shares: Tensor, names: tuple[str, ...], answers: tuple[str, ...]) -> Html:
    """The most frequent confusions."""
    mistakes, width = confusion.clone().fill_diagonal_(0), len(names) + 1
    if not mistakes.any():
        return element("p", "There are none.")
    counts, cells = mistakes.flatten().topk(CONFUSIONS)
    rows = (
        [
            *(name_cell(names[cell // width]), element("td", answers[cell % width], class_="name")),
            *(element("td", f"{count:,}"), share_cell(shares.flatten()[cell].item())),
        ]
        for count, cell in zip(counts.tolist(), cells.tolist(), strict=True)
        if count
    )
    intro = element("p", f"The {CONFUSIONS} most frequent of all.", class_="soft")
    return join([intro, table(["label", "prediction", "samples", "of the label"], rows, class_="list names-2")])


def share_cell(share: float) -> Html:
    """A cell with a share in per cent and a bar behind it; of nothing there is no share."""
    if math.isnan(share):
        return element("td", "n/a")
    return element("td", f"{share:.1%}", class_="share", style=f"--share: {share:.1%}")
