"""Run folders: metadata, metrics, checkpoints, signatures, and the tables and plots made from them; no training."""

from kindling.runs.find_checkpoint import find_checkpoint

__all__ = ["find_checkpoint"]
