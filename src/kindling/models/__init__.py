"""Networks and the LightningModules that train them (`--model NAME`); no data sources and no callbacks."""

from kindling.models.classification import ClassificationTask
from kindling.models.cnn import CNNClassifier, CNNMultiLabelClassifier, CNNRegressor
from kindling.models.ensemble import EnsembleClassifier, EnsembleMultiLabelClassifier, EnsembleRegressor
from kindling.models.mlp import MLPClassifier, MLPMultiLabelClassifier
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import MLPRegressor, RegressionTask
from kindling.models.tabm import TabMClassifier, TabMRegressor
from kindling.models.task import BaseTask
from kindling.models.transfer import TransferClassifier, TransferMultiLabelClassifier, TransferRegressor

__all__ = [
    "BaseTask",
    "CNNClassifier",
    "CNNMultiLabelClassifier",
    "CNNRegressor",
    "ClassificationTask",
    "EnsembleClassifier",
    "EnsembleMultiLabelClassifier",
    "EnsembleRegressor",
    "MLPClassifier",
    "MLPMultiLabelClassifier",
    "MLPRegressor",
    "MultiLabelTask",
    "RegressionTask",
    "TabMClassifier",
    "TabMRegressor",
    "TransferClassifier",
    "TransferMultiLabelClassifier",
    "TransferRegressor",
]
