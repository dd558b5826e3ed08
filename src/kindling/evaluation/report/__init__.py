"""The HTML report of a test: one self-contained page."""

from kindling.evaluation.report.page import FoldResults, write_report

__all__ = ["FoldResults", "write_report"]
