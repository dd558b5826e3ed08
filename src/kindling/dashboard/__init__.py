"""What a run shows in TensorBoard beside its figures. A project that deletes this folder has its figures still."""

from kindling.dashboard.callback import Dashboard, dashboard_of

__all__ = ["Dashboard", "dashboard_of"]
