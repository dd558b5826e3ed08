"""Finds the features of the samples on which the errors of a regression model depend."""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import kruskal
from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.datasets import inputs_of
from kindling.data.tables.rows import distinct_columns, width
from kindling.evaluation.regression import ErrorGroup, group_errors, quantile_groups

QUARTERS = 4
DISTINCT = 6  # up to this many distinct values, each is a group; of more categories, the most frequent ones are
MAX_FEATURES = 500  # more inputs, such as those of flattened images, have no meaningful names
SIGNIFICANCE = 0.05  # divided by the number of features: by chance, one report in twenty shows a feature


class Feature(NamedTuple):
    """A column of a table, or one input of a model that takes feature vectors.

    Attributes:
        name: As in `BaseDataModule.sample_details`; empty for inputs that are no column.
        values: The inputs that encode it, shape (N, k).
        places: Their positions among all inputs of the model, shape (k,).
        is_category: Whether its values have no order.
        missing: Whether the value of a sample is missing, shape (N,).
    """

    name: str
    values: Tensor
    places: Tensor
    is_category: bool
    missing: Tensor

    @property
    def groups(self) -> Tensor:
        """The group (N,) of each sample; samples without a value are the last one."""
        groups = torch.full((len(self.values),), len(self.values))
        groups[~self.missing] = self._groups(self.values[~self.missing])
        return groups

    def _groups(self, values: Tensor) -> Tensor:
        """Return the group (n,) of values (n, k): one for each if there are few, else a quarter, or categories."""
        _, found, counts = np.unique(values.numpy(), axis=0, return_inverse=True, return_counts=True)
        codes = torch.from_numpy(found)
        if len(counts) <= DISTINCT:
            return codes
        if not self.is_category:
            return quantile_groups(values[:, 0], QUARTERS)
        ranks = torch.from_numpy((-counts).argsort().argsort())
        return ranks[codes].clamp(max=DISTINCT - 1)  # the last group holds the rare ones


class FeatureErrors(NamedTuple):
    """The errors for groups of values of a feature.

    Attributes:
        feature: The feature.
        groups: The errors of each group, by increasing value; of categories, those with the largest errors first.
        p_value: Probability of absolute errors that differ at least as much if the feature did not matter.
    """

    feature: Feature
    groups: list[ErrorGroup]
    p_value: float


def errors_by_feature(errors: Tensor, features: list[Feature], most: int) -> list[FeatureErrors]:
    """Return the features on which the size of the errors (N,) depends, clearest first, `most` at most."""
    found = []
    for feature in filter(lambda feature: feature.name, features):
        groups = feature.groups
        p_value = kruskal_wallis(errors.abs(), groups)
        if p_value * len(features) < SIGNIFICANCE:
            measured = group_errors(errors, groups)
            if feature.is_category:
                measured.sort(key=lambda group: -group.mae)
            found.append(FeatureErrors(feature, measured, p_value))
    return sorted(found, key=lambda one: one.p_value)[:most]


def kruskal_wallis(values: Tensor, groups: Tensor) -> float:
    """Return the p-value of equal distributions of values (N,) in all groups (N,), which are integers.

    W. H. Kruskal and W. A. Wallis, JASA 47 (1952).
    """
    array, codes = values.numpy(), groups.numpy()
    parts = [array[codes == code] for code in np.unique(codes)]
    if len(parts) < 2 or len(np.unique(array)) < 2:
        return 1.0
    return float(kruskal(*parts).pvalue)


def features_of(data: BaseDataModule, rows: Tensor, most: int = MAX_FEATURES) -> list[Feature]:
    """Return the features of test samples (n,); none if their inputs are not vectors of at most `most` numbers."""
    first = inputs_of(data.test, rows[:1])  # reading all images of a folder would take long
    if first is None or first.ndim != 2 or first.shape[1] > most:
        return []
    inputs = inputs_of(data.test, rows)
    return [] if inputs is None else list(_split(data, inputs))


def _split(data: BaseDataModule, inputs: Tensor) -> Iterator[Feature]:
    columns = data.fitted.get("columns")
    none = torch.zeros(len(inputs), dtype=torch.bool)
    if columns is None:
        for number, values in enumerate(torch.split(inputs, 1, dim=1)):
            yield Feature(f"feature {number}", values, torch.tensor([number]), False, none)
        return
    ends = [*accumulate(map(width, columns))]
    for first in distinct_columns(columns):
        # Each member of an ensemble may encode the column.
        found = [(column, end) for column, end in zip(columns, ends, strict=True) if column["name"] == first["name"]]
        places = torch.cat([torch.arange(end - width(column), end) for column, end in found])
        marks = [inputs[:, end - 1] > 0 for column, end in found if column["missing"]]
        missing = torch.stack(marks).any(dim=0) if marks else none
        yield Feature(first["name"], inputs[:, places], places, first["kind"] == "category", missing)
    if (end := ends[-1]) < inputs.shape[1]:
        yield Feature("", inputs[:, end:], torch.arange(end, inputs.shape[1]), False, none)
