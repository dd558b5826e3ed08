"""Runs checks without side effects on other tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from kindling.training.random_state import random_state, restore_random_state
from kindling.utils.console import silence_libraries


@contextmanager
def isolated() -> Iterator[None]:
    """Silence libraries; restore the random state and the environment, which contains Lightning's seed, afterwards."""
    silence_libraries()
    state = random_state()
    with patch.dict(os.environ):
        try:
            yield
        finally:
            restore_random_state(state)
