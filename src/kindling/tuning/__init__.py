"""Helps to choose hyperparameters: diagnostics before training, and the search of `kindling tune`."""

from kindling.tuning.learning_rate import Suggestion, find_lr
from kindling.tuning.overfit import OverfitResult, overfit_batch

__all__ = ["OverfitResult", "Suggestion", "find_lr", "overfit_batch"]
