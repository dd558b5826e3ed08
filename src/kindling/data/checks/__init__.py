"""Checks of data before any training: what is in it, and findings with their rows or files and what to do.

`inspect_data` reads the data and returns a `DataReport`; `kindling check` prints it.
"""

from kindling.data.checks.inspection import inspect_data
from kindling.data.checks.report import DataReport, Finding

__all__ = ["DataReport", "Finding", "inspect_data"]
