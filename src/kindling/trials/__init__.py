"""Short trainings that find faults before the long one."""

from kindling.trials.overfit import Learnt, overfit_batch
from kindling.trials.rate import Suggestion, find_lr

__all__ = ["Learnt", "Suggestion", "find_lr", "overfit_batch"]
