"""Behaviours that cut across models and data, one file each."""

from kindling.callbacks.hint import SpeedHint
from kindling.callbacks.history import TrainingHistory
from kindling.callbacks.profile import EpochProfiler
from kindling.callbacks.progress import ProgressBar
from kindling.callbacks.resume import ExactResume

__all__ = ["EpochProfiler", "ExactResume", "ProgressBar", "SpeedHint", "TrainingHistory"]
