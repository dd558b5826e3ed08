"""Check that a checkpoint holds what Kindling writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

TYPES: dict[str, type] = {
    **{"hyper_parameters": dict, "datamodule_hyper_parameters": dict, "state_dict": dict, "callbacks": dict},
    **{"loops": dict, "optimizer_states": list, "lr_schedulers": list, "checksums": dict, "plugins": dict},
    **{"global_step": int, "epoch": int, "schedule_start": int},
}
FITTED_TYPES: dict[str, type] = {"classes": list, "columns": list}
MODEL_TYPES: dict[str, type] = {"_class_path": str, "num_classes": int, "input_shape": list, "class_names": list}
COLUMN_TYPES: dict[str, type] = {"name": str, "kind": str, "values": list, "classes": list}

Typed = tuple[dict[str, Any], dict[str, type]]  # values and the types that they must have


def check_types(path: Path, checkpoint: Any) -> None:
    """Check what a checkpoint holds, so that an altered one fails here and not within a command.

    Raises:
        ValueError: If it is no checkpoint of Kindling, or was altered.
    """
    about = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if not isinstance(about, dict) or "_class_path" not in about:
        raise ValueError(f"{path} is no checkpoint of Kindling: it does not say which model it holds")
    for held, types in _typed(checkpoint, about):
        for name, kind in types.items():
            if not _is(held.get(name), kind):
                raise ValueError(f"{path} is no checkpoint of Kindling, or was altered: its {name} is {held[name]!r}")
    names, number = about.get("class_names"), about.get("num_classes")
    if names and number is not None and len(names) != number:
        raise ValueError(f"{path} was altered: it has {len(names)} class_names for {number} classes")
    if checkpoint.get("loops") is not None and not checkpoint["loops"]:
        raise ValueError(f"{path} was altered: its loops are empty")
    if any("kind" not in column or "name" not in column for column in _columns(checkpoint)):
        raise ValueError(f"{path} was altered: a column has no name or no kind")


def _typed(checkpoint: dict[str, Any], about: dict[str, Any]) -> Iterator[Typed]:
    yield from ((checkpoint, TYPES), (about, MODEL_TYPES))
    yield _dict(checkpoint.get("datamodule_hyper_parameters")), {"_class_path": str}
    yield {"data": _fitted(checkpoint)}, {"data": dict}
    yield _dict(_fitted(checkpoint)), FITTED_TYPES
    for column in _columns(checkpoint):
        yield {"columns": column}, {"columns": dict}
        yield _dict(column), COLUMN_TYPES
    for state in _list(checkpoint.get("optimizer_states")):
        yield {"optimizer_states": state}, {"optimizer_states": dict}


def _fitted(checkpoint: dict[str, Any]) -> Any:
    """What the data module has fitted on the training split."""
    data = _dict(checkpoint.get("datamodule_hyper_parameters"))
    return checkpoint.get(str(data.get("_class_path")).rpartition(".")[2])


def _columns(checkpoint: dict[str, Any]) -> list[Any]:
    return [{} if column is None else column for column in _list(_dict(_fitted(checkpoint)).get("columns"))]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is(value: Any, kind: type) -> bool:
    """Whether a value of a checkpoint, if there is one, has a type; numbers count, and a tuple is a list."""
    if kind is int:
        return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    return value is None or isinstance(value, (list, tuple) if kind is list else kind)
