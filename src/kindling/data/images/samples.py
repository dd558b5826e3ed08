"""A labeled image, and the tasks that labels are for."""

from typing import Literal, NamedTuple

ImageTask = Literal["classification", "regression", "multilabel"]


class Sample(NamedTuple):
    """An image: its path relative to the data folder, its class, number or classes as text, and its split."""

    file: str
    label: str
    split: str
