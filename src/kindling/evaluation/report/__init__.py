"""The HTML report of a test: one self-contained page."""

from kindling.evaluation.report.page import write_report

__all__ = ["write_report"]
