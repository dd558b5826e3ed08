"""Models in ONNX that need more than their own file: weights in other files, or operators of other libraries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kindling.utils.optional import require_extra
from kindling.utils.text import program_name, strip_control_characters

# Domains of operators that onnxruntime brings along. EPContext, which holds the path of a compiled model, is none of
# those that are used.
DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"))


def check_one_file(path: Path) -> None:
    """Check that a model in ONNX is complete in its own file, as `kindling export` writes it.

    Raises:
        ValueError: If it is no model in ONNX, takes weights from another file, anywhere on this machine, or needs
            operators that onnxruntime does not bring along.
    """
    require_extra("export", "onnx")
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's, which is a package of its own
        raise ValueError(f"{path} is damaged or no model in ONNX") from error
    functions = {(function.domain, function.name) for function in model.functions}
    for node in messages(model, "NodeProto"):
        known = node.domain in DOMAINS or (node.domain, node.op_type) in functions
        if not known or node.op_type == "EPContext":
            name = strip_control_characters(f"{node.domain}:{node.op_type}")
            raise ValueError(f"{path} needs the custom operator {name}: kindling export writes models without")
    for tensor in messages(model, "TensorProto"):
        if uses_external_data(tensor):
            place = strip_control_characters(ExternalDataInfo(tensor).location)
            raise ValueError(
                f"{path} keeps weights in another file, {place}: {program_name()} export writes one without"
            )


def messages(message: Any, kind: str) -> Iterator[Any]:
    """Yield all messages of a kind in a message of ONNX, at any depth: attributes, functions, subgraphs."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if hasattr(value, "extend") else [value]:
                if field.message_type.name == kind:
                    yield one
                yield from messages(one, kind)
