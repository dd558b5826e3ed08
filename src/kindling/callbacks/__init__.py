"""Behaviours that cut across models and data: one small callback a file."""

from kindling.callbacks.history import TrainingHistory
from kindling.callbacks.progress import ProgressBar
from kindling.callbacks.resume import ExactResume

__all__ = ["ExactResume", "ProgressBar", "TrainingHistory"]
