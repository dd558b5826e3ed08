"""The confusion matrix of the report; with many classes, a list of the most frequent confusions."""

import math
from collections.abc import Sequence

from kindling.evaluation.predictions import NO_PREDICTION, ConfusionCounts, most_confused
from kindling.evaluation.report.html import Html, element, join, name_cell, table

MATRIX_CLASSES = 20  # more do not fit on the page
LISTED = 20


def confusion_section(confusions: ConfusionCounts, names: Sequence[str]) -> Html:
    """Return a matrix or a list of confusions between the classes with these names."""
    return (matrix if len(names) <= MATRIX_CLASSES else confusion_list)(confusions, names)


def matrix(confusions: ConfusionCounts, names: Sequence[str]) -> Html:
    """Return a table of counts, blue if correct and orange if wrong, the stronger the larger the share of the row."""
    counts = confusions.matrix(len(names))
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    columns = [*names, NO_PREDICTION] if counts[:, -1].any() else names
    rows = (
        [
            element("th", names[label], scope="row", title=names[label]),
            *(
                matrix_cell(count, share, names[label], column, prediction == label)
                for prediction, (count, share, column) in enumerate(zip(row, row_shares, columns, strict=False))
            ),
        ]
        for label, (row, row_shares) in enumerate(zip(counts.tolist(), shares.tolist(), strict=True))
    )
    direction = "upright" if max(map(len, columns)) > 3 else "level"
    header = ["", *(element("span", name, title=name, class_=direction) for name in columns)]
    intro = "Rows are labels, columns are predictions. Stronger colors are larger shares of the row."
    return join([element("p", intro, class_="soft"), table(header, rows, class_="matrix")])


def matrix_cell(count: int, share: float, label: str, prediction: str, is_correct: bool) -> Html:
    """Return a cell of the matrix, empty for a count of 0."""
    if not count:
        return element("td")
    strength = 0.15 + 0.85 * math.sqrt(share)  # a share of 1% is visible
    kind = ("right" if is_correct else "wrong") + (" full" if strength > 0.65 else "")
    title = f"{label} predicted as {prediction}: {count:,} ({share:.1%} of {label})"
    return element("td", f"{count:,}", class_=kind, style=f"--share: {strength:.2f}", title=title)


def confusion_list(confusions: ConfusionCounts, names: Sequence[str]) -> Html:
    """Return a table of the most frequent confusions."""
    rows = [
        [name_cell(label), element("td", prediction, class_="name"), element("td", f"{count:,}"), share_cell(share)]
        for label, prediction, count, share in most_confused(confusions, names, LISTED)
    ]
    if not rows:
        return element("p", "All predictions are correct.")
    intro = element("p", f"The {LISTED} most frequent confusions.", class_="soft")
    return join([intro, table(["label", "prediction", "samples", "of the label"], rows, class_="list names-2")])


def share_cell(share: float) -> Html:
    """Return a cell with a percentage and a bar of that length; "n/a" for NaN."""
    if math.isnan(share):
        return element("td", "n/a")
    return element("td", f"{share:.1%}", class_="share", style=f"--share: {share:.1%}")
