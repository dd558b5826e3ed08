"""Multilayer perceptrons for feature vectors and small images."""

from kindling.models.classification import ClassificationTask
from kindling.models.mlp_base import MLPModel
from kindling.models.multilabel import MultiLabelTask
from kindling.models.regression import MLPRegressor


class MLPMultiLabelClassifier(MLPModel, MultiLabelTask):
    """Multilayer perceptron for multi-label classification.

    See `MLPModel` and `MultiLabelTask`.
    """


class MLPClassifier(MLPModel, ClassificationTask):
    """Multilayer perceptron: 784-128-10 on MNIST has 101,770 parameters.

    See `MLPModel` and `ClassificationTask`.
    """

    regressor = MLPRegressor
    multilabel_classifier = MLPMultiLabelClassifier
