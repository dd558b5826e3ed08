"""`kindling runs`: what was trained, from the run folders alone. Imports neither torch nor Lightning."""

from kindling.runs.find import find_checkpoint

__all__ = ["find_checkpoint"]
