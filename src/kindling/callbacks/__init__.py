"""Behaviours that cut across models and data, one file each."""

from kindling.callbacks.averaging import EMA, SWA, Averaging
from kindling.callbacks.best import BestCheckpoint, RunEarlyStopping
from kindling.callbacks.collect import CollectTest
from kindling.callbacks.figures import StepFigures
from kindling.callbacks.finite import FiniteLoss
from kindling.callbacks.hint import SpeedHint
from kindling.callbacks.history import TrainingHistory
from kindling.callbacks.names import StandardNames
from kindling.callbacks.profile import EpochProfiler
from kindling.callbacks.progress import ProgressBar
from kindling.callbacks.record import RunRecord
from kindling.callbacks.resume import ExactResume
from kindling.callbacks.watch import Watch

__all__ = [
    "EMA",
    "SWA",
    "Averaging",
    "BestCheckpoint",
    "CollectTest",
    "EpochProfiler",
    "ExactResume",
    "FiniteLoss",
    "ProgressBar",
    "RunEarlyStopping",
    "RunRecord",
    "SpeedHint",
    "StandardNames",
    "StepFigures",
    "TrainingHistory",
    "Watch",
]
