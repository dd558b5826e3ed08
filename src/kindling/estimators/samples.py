"""Samples as scikit-learn passes them, arrays or data frames, as a data frame with one name per column."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from kindling.utils.text import count_noun, join_names

if TYPE_CHECKING:
    from pandas import DataFrame


def are_texts(targets: Any) -> bool:
    """Return whether some of the targets (N,) are texts, such as `425,08 €`."""
    values = np.asarray(targets)
    return values.dtype.kind in "UT" or (values.dtype == object and any(isinstance(one, str) for one in values.flat))


def as_frame(estimator: BaseEstimator, samples: Any, *, fits: bool) -> "DataFrame":
    """Check samples (N, F) by the rules of scikit-learn, and return them with rows numbered from 0.

    Args:
        estimator: The estimator, which gets `n_features_in_` and, for a data frame, `feature_names_in_`.
        samples: An array, which may contain numbers and texts, or a data frame.
        fits: Whether the estimator is fitted with them.

    Raises:
        ValueError: If there are too few rows, other columns than in `fit`, or two of the same name.
        TypeError: If the samples are a sparse matrix.
    """
    import pandas as pd  # imported here because it takes 0.5 s

    least = 2 if fits else 1  # one to train on and one for validation
    checks: dict[str, Any] = {"skip_check_array": True}  # which would lose the types of a data frame
    if not isinstance(samples, pd.DataFrame):
        checks = {"dtype": None, "ensure_all_finite": "allow-nan", "ensure_min_samples": least}
    frame = pd.DataFrame(validate_data(estimator, samples, reset=fits, **checks)).reset_index(drop=True)
    if len(frame) < least or not frame.shape[1]:
        raise ValueError(
            f"X has the shape {frame.shape}: at least {count_noun(least, 'row', 'rows')} and a column are needed"
        )
    names = getattr(estimator, "feature_names_in_", [f"x{number}" for number in range(estimator.n_features_in_)])
    frame.columns = pd.Index([*map(str, names)])
    if not frame.columns.is_unique:
        raise ValueError(f"X has two columns {join_names([*frame.columns[frame.columns.duplicated()]])}: rename one")
    for name in frame:
        if frame[name].dtype.kind == "O":
            frame[name] = frame[name].map(lambda cell: cell if isinstance(cell, Hashable) else str(cell), "ignore")
    return frame
