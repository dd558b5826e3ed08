"""Networks and the LightningModules that train them (`--model NAME`); no data sources and no callbacks."""

from kindling.models.classification import ClassificationTask
from kindling.models.cnn import CNNClassifier
from kindling.models.ensemble import EnsembleClassifier
from kindling.models.mlp import MLPClassifier
from kindling.models.regression import MLPRegressor, RegressionTask
from kindling.models.task import BaseTask
from kindling.models.transfer import TransferClassifier

__all__ = [
    "BaseTask",
    "CNNClassifier",
    "ClassificationTask",
    "EnsembleClassifier",
    "MLPClassifier",
    "MLPRegressor",
    "RegressionTask",
    "TransferClassifier",
]
