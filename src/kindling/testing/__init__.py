"""Checks for the tests of a project: of a model, a data module and a recipe, each in one line.

    from kindling.testing import check_data, check_model, check_recipe

Each raises an AssertionError that names what is wrong and where.
"""

from kindling.testing.data import check_data
from kindling.testing.models import check_model
from kindling.testing.recipes import check_recipe

__all__ = ["check_data", "check_model", "check_recipe"]
