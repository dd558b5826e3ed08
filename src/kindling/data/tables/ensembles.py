"""State that the data module of an ensemble takes over from its members.

Members that learned from different rows encode a row differently: with other means, categories or columns. The data
module then encodes each row once per member and concatenates the encodings, (N, sum of the members' features), which
the ensemble splits again.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from kindling.data.fitted_state import MEMBERS
from kindling.data.tables.rows import split_members
from kindling.utils.text import join_names


def combine_fitted(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fitted state of an ensemble, given that of each member.

    Its `columns` are those of one member if all encodings are equal; else those of all members, one after the other and
    numbered by `member`.

    Raises:
        ValueError: If the members predict other classes.
    """
    first = states[0]
    for state in states[1:]:
        if state.get("classes") != first.get("classes"):
            names = " and ".join(join_names(each.get("classes", ["numbers"]), 5) for each in (first, state))
            raise ValueError(f"the members of the ensemble predict different classes: {names}")
    if all(state.get("digest") == first.get("digest") for state in states):
        return {**first}
    columns = [*first["columns"]]
    if any(state["columns"] != columns for state in states):
        members = (member for state in states for member in split_members(state["columns"]))
        columns = [column | {"member": number} for number, member in zip(count(), members) for column in member]
    used = {column["name"] for column in columns}
    left_out = {name: reason for state in states for name, reason in state["left_out"].items() if name not in used}
    rest = {name: value for name, value in first.items() if name != "digest"}
    return rest | {"columns": columns, "left_out": left_out, MEMBERS: len(states)}
