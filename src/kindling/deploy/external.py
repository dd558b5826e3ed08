"""Models in ONNX that keep weights in other files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kindling.deploy.extras import require
from kindling.wording import printable, program_name


def check_one_file(path: Path) -> None:
    """Check that a model in ONNX keeps all its weights in its own file, as `kindling export` writes it.

    Raises:
        ValueError: If it is no model in ONNX, or takes some from another file, anywhere on this machine.
    """
    require("export", "onnx")
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's, which is a package of its own
        raise ValueError(f"{path} is damaged or no model in ONNX") from error
    for tensor in tensors_of(model):
        if uses_external_data(tensor):
            place = printable(ExternalDataInfo(tensor).location)
            raise ValueError(
                f"{path} keeps weights in another file, {place}: {program_name()} export writes one without"
            )


def tensors_of(message: Any) -> Iterator[Any]:
    """All tensors in a message of ONNX, at any depth: initializers, attributes, functions, subgraphs."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if hasattr(value, "extend") else [value]:
                yield from [one] if field.message_type.name == "TensorProto" else tensors_of(one)
