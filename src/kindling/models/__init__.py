"""Networks and the LightningModules that wrap them. A model named here can be chosen with `--model NAME`."""

from kindling.models.classifier import Classifier
from kindling.models.cnn import CNNClassifier
from kindling.models.ensemble import EnsembleClassifier
from kindling.models.mlp import MLPClassifier
from kindling.models.transfer import TransferClassifier

__all__ = ["CNNClassifier", "Classifier", "EnsembleClassifier", "MLPClassifier", "TransferClassifier"]
