"""Checks of data before training: its contents, and possible faults with their rows or files and a fix.

`inspect_data` reads the data and returns a `DataReport`; `kindling check` prints it.
"""

from kindling.data.checks.inspection import inspect_data
from kindling.data.checks.report import DataReport, Finding

__all__ = ["DataReport", "Finding", "inspect_data"]
