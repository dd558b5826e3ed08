"""Behaviours that cut across models and data, one file each."""

from kindling.training.averaging import EMA, SWA, Averaging
from kindling.training.best_checkpoint import BestCheckpoint, RunEarlyStopping
from kindling.training.layer_health import Watch
from kindling.training.performance_hint import SpeedHint
from kindling.training.profiler import EpochProfiler
from kindling.training.progress_bar import ProgressBar
from kindling.training.resume import ExactResume
from kindling.training.run_metadata import RunRecord
from kindling.training.standard_names import StandardNames
from kindling.training.terminate_on_nan import FiniteLoss
from kindling.training.test_outputs import CollectTest
from kindling.training.training_plots import TrainingHistory
from kindling.training.training_stats import StepFigures

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
