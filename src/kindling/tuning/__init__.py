"""Short diagnostic fits before the actual training; they save no run and no checkpoint."""

from kindling.tuning.learning_rate import Suggestion, find_lr
from kindling.tuning.overfit import OverfitResult, overfit_batch

__all__ = ["OverfitResult", "Suggestion", "find_lr", "overfit_batch"]
