"""The report of a test: one HTML page that needs nothing else."""

from kindling.evaluation.report.page import write_report

__all__ = ["write_report"]
