"""Estimators for scikit-learn, over the same recipe, data module, models and training as `kindling fit`."""

from kindling.estimators.tables import TableClassifier, TableRegressor

__all__ = ["TableClassifier", "TableRegressor"]
