"""What a run shows in TensorBoard beside its figures."""

from kindling.tensorboard.dashboard import Dashboard, dashboard_of

__all__ = ["Dashboard", "dashboard_of"]
