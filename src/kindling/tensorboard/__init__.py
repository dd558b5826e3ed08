"""TensorBoard: loggers, and a dashboard of images, graph, histograms and predictions."""

from kindling.tensorboard.dashboard import Dashboard, dashboard_of

__all__ = ["Dashboard", "dashboard_of"]
