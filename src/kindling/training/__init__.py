"""Callbacks and plug-ins that act during training, one file each; no models, data or evaluation results."""

from kindling.training.averaging import EMA, SWA, Averaging
from kindling.training.best_checkpoint import BestCheckpoint
from kindling.training.early_stopping import RunEarlyStopping
from kindling.training.layer_health import LayerHealthMonitor
from kindling.training.output_collector import TestOutputCollector
from kindling.training.performance_hint import PerformanceHint
from kindling.training.profiler import EpochProfiler
from kindling.training.progress_bar import ProgressBar
from kindling.training.resume import ExactResume
from kindling.training.run_metadata_writer import RunMetadataWriter
from kindling.training.standard_names import StandardNames
from kindling.training.terminate_on_nan import TerminateOnNaN
from kindling.training.training_plots import PlotTrainingHistory
from kindling.training.training_stats import TrainingStatsMonitor

__all__ = [
    "EMA",
    "SWA",
    "Averaging",
    "BestCheckpoint",
    "EpochProfiler",
    "ExactResume",
    "LayerHealthMonitor",
    "PerformanceHint",
    "PlotTrainingHistory",
    "ProgressBar",
    "RunEarlyStopping",
    "RunMetadataWriter",
    "StandardNames",
    "TerminateOnNaN",
    "TestOutputCollector",
    "TrainingStatsMonitor",
]
