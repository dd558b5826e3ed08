"""The command line: commands, options, help pages, error messages and recipes; no training or evaluation code."""

from kindling.cli.entry_point import main, program

__all__ = ["main", "program"]
