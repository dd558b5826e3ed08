"""The fitted state of a data module: its comparison with that of a checkpoint, and that of an ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

from kindling.utils.text import join_names

FittedState = dict[str, Any]

MEMBERS = "members"  # key of the fitted state of an ensemble whose members may have been fitted to different samples


def check_unchanged(origin: str, fitted: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise ValueError if the fitted state of the data read so far is not that stored in a checkpoint.

    The weights fit only its classes and columns. `origin` is the folder or file that the samples come from.
    """
    changed = [name for name in stored if name in fitted and fitted[name] != stored[name]]
    if changed:
        changes = [f"{name}{_describe_change(fitted[name], stored[name])}" for name in changed]
        raise ValueError(
            f"{origin} is not the data that the checkpoint was trained on: other {join_names(changes)}; "
            "start a new run without --ckpt_path"
        )


def shared_state(states: Sequence[FittedState], may_differ: Sequence[str] = ()) -> FittedState:
    """Return the fitted state of an ensemble: what its members have in common, and their number.

    Raises:
        ValueError: If other entries than those in `may_differ` are not the same.
    """
    first = states[0]
    shared = {name: value for name, value in first.items() if all(state.get(name) == value for state in states)}
    if differing := {name for state in states for name in state} - {*shared, MEMBERS, *may_differ}:
        raise ValueError(f"the members of the ensemble were trained with different {join_names(sorted(differing))}")
    return shared | {MEMBERS: len(states)}


def _describe_change(now: Any, then: Any) -> str:
    """Return the current and the previous value in parentheses, or nothing if they would not be readable."""
    if isinstance(now, int):
        return f" ({now}, was {then})"
    if isinstance(now, list) and all(isinstance(name, str) for name in now):
        return f" ({join_names(now, 5)}, was {join_names(then, 5)})"
    return ""
