"""`TableClassifier` and `TableRegressor`."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from kindling.data.tables.number_target import NumberTarget
from kindling.data.tables.table_file import TableFile
from kindling.data.tables.values import as_name, sort_names
from kindling.estimators.base import TableEstimator
from kindling.estimators.samples import are_texts
from kindling.models import ClassificationTask
from kindling.models.threshold import ThresholdMetric
from kindling.utils.decision_threshold import predicted_classes


@dataclass(kw_only=True, eq=False, repr=False)
class TableRegressor(RegressorMixin, TableEstimator):  # type: ignore[misc]
    """Regressor for tables of numbers, categories and dates with missing values, trained as by `kindling fit`.

    Args:
        recipe: Name or path of the recipe; the other arguments override what it says.
        max_epochs: Number of epochs; the weights of the best one are kept.
        batch_size: Samples per training batch.
        learning_rate: Learning rate, with a schedule its peak.
        model_options: Other arguments of the model of the recipe, such as `{"hidden": (64,)}`.
        validation_fraction: Fraction of the samples on which the best epoch is chosen.
        accelerator: cpu, gpu or mps; by default the best one.
        random_state: Seed or random generator for the initial weights, the batches and the validation split.
        verbose: Whether to print a line per epoch, and warnings about the data.

    Attributes:
        model_: The trained model.
        columns_: How each column is encoded.
        left_out_: Columns that are not used, each with the reason.
        n_features_in_: Number of columns.
        feature_names_in_: Names of the columns, if `fit` was called with a data frame.
    """

    task = "regression"

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  (the names of scikit-learn)
        """Train on samples (N, F), an array or a data frame, and their values (N,), numbers or texts with them."""
        return self._train(*self._check(X, y), getattr(y, "name", None))

    def predict(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the predicted values (N,) in the units of `y`."""
        values: NDArray[np.float32] = self._outputs(X).numpy()
        return values

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return R2 of the predictions for samples (N, F) and their values (N,), with weights (N,)."""
        check_is_fitted(self)
        return float(super().score(X, self._read(y), sample_weight))

    def _read(self, values: Any) -> Any:
        """Return values (N,) as numbers, if they are texts."""
        if not are_texts(values):
            return values
        import pandas as pd  # imported here because it takes 0.5 s

        column = self._checkpoint["TableDataModule"]["target"]
        frame = pd.DataFrame({column["name"]: np.asarray(values)})
        return NumberTarget(TableFile("y", column["name"], (), frame), column).numbers


@dataclass(kw_only=True, eq=False, repr=False)
class TableClassifier(ClassifierMixin, TableEstimator):  # type: ignore[misc]
    """Classifier for tables of numbers, categories and dates with missing values, trained as by `kindling fit`.

    The other arguments and attributes are those of `TableRegressor`.

    Args:
        threshold: For two classes, the probability from which the positive class is predicted, or a metric for which
            it is chosen on the validation samples: accuracy, balanced_accuracy, f1, positive_f1 or mcc.
        positive_class: The class that `threshold` is about; the second one by default.

    Attributes:
        classes_: The classes, sorted.
    """

    task = "classification"

    threshold: float | ThresholdMetric | None = None
    positive_class: Any = None

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train on samples (N, F), an array or a data frame, and their classes (N,)."""
        frame, labels = self._check(X, y)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has only one class ({self.classes_[0]}): a classifier needs at least two")
        names = class_names(self.classes_)
        self._model_classes = np.array([names.index(one) for one in sort_names(names)])  # their order in the model
        positive = self.positive_class
        if positive is not None:
            positive = next((names[place] for place in np.flatnonzero(self.classes_ == positive)), positive)
        elif self.threshold is not None and len(names) == 2:
            positive = names[1]
        options = {"threshold": self.threshold, "positive_class": positive}
        return self._train(frame, np.array(names, dtype=object)[codes], getattr(y, "name", None), **options)

    def predict_proba(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the probabilities (N, classes), in the order of `classes_`."""
        probabilities: NDArray[np.float32] = self._outputs(X).numpy()[:, np.argsort(self._model_classes)]
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the predicted classes (N,): the most probable ones unless there is a threshold."""
        probabilities = self._outputs(X)
        assert isinstance(self.model_, ClassificationTask)
        codes = predicted_classes(probabilities, self.model_.threshold).numpy()
        predicted: NDArray[Any] = self.classes_[self._model_classes[codes]]
        return predicted


def class_names(classes: NDArray[Any]) -> list[str]:
    """Return a different name, which is not empty, for each class: its text, or its number if that won't do."""
    names = [*map(as_name, classes)]
    return names if "" not in names and len({*names}) == len(names) else [*map(str, range(len(names)))]
