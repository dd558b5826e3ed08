"""Commands: their options, help pages, one-line errors, and the run that `fit` opens. Nothing is computed here."""

from kindling.cli.entry_point import main, program

__all__ = ["main", "program"]
