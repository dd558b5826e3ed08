"""ONNX files: write and read them, and refuse those that need other files or libraries."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kindling.deploy.export_wrapper import Compute, ExportWrapper, Inputs, Outputs
from kindling.deploy.model_card import ModelCard
from kindling.deploy.onnx_graph import OPSET
from kindling.deploy.onnx_photo import add_decoding
from kindling.deploy.onnx_rows import add_encoding
from kindling.deploy.predictor import Predictor
from kindling.models.data_arguments import Task
from kindling.utils.optional import require_extra
from kindling.utils.text import program_name, strip_control_characters

# Domains of the operators that onnxruntime contains. Its EPContext is refused: it holds the path of a compiled model.
DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"))

# Metadata of a file that takes the columns of a table, or photographs: the name of the encoded features, or the images.
FEATURES = "features"
# What is served.
OUTPUTS: dict[Task, str] = {
    "classification": "probabilities",
    "multilabel": "probabilities",
    "regression": "predictions",
}


def any_batch_size(example: Inputs) -> dict[str, Any]:
    """Return the `dynamic_shapes` of inputs that share a batch of any size."""
    batch = torch.export.Dim("batch")
    return {"inputs": tuple({0: batch} for _ in example)}


def write_onnx(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path, raw: bool = False) -> None:
    """Write an ONNX file, with one entry of metadata for each field of the card; of a table, it takes the columns.

    If `raw`, that of a model of images takes a photograph.

    Raises:
        ValueError: If torch can't convert the model.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name")  # the inputs share their batch size
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                input_names=model.inputs,
                output_names=model.outputs,
                dynamic_shapes=any_batch_size(example),
                opset_version=OPSET if card.takes_rows or raw else None,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:  # its own message is pages of advice
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ValueError(f"torch can't convert {card.model} to ONNX: {reason}") from error
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in card.as_dict().items()})
    file = program.model_proto
    if card.takes_rows and card.columns:
        features = add_encoding(file, card.columns)
    elif raw:
        features = add_decoding(file, card.input_shape)
    else:
        return program.save(path, external_data=False)
    file.metadata_props.add(key=FEATURES, value=json.dumps(features))
    path.write_bytes(file.SerializeToString())


def read_onnx(path: Path) -> Compute:
    """Return a function that computes with onnxruntime."""
    session = onnx_session(path)
    names = [each.name for each in session.get_inputs()]

    def compute(*inputs: Tensor) -> Outputs:
        arrays = map(np.asarray, inputs)
        return tuple(map(torch.from_numpy, session.run(None, dict(zip(names, arrays, strict=True)))))

    return compute


def onnx_session(path: Path) -> Any:
    """Open an ONNX file that needs no other files or libraries with onnxruntime."""
    require_extra("export", "onnxruntime", "onnx")
    check_exported(path)
    check_self_contained(path)
    return _open(path, path)


def _open(content: Path | bytes, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # each error of onnxruntime has its own class
        raise ValueError(f"{path} is damaged or not an ONNX file") from error


def check_exported(path: Path) -> None:
    """Raise FileNotFoundError if an exported file does not exist."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: create it with `{program_name()} export`")


def load_onnx(path: Path) -> Predictor:
    """Return a predictor that computes with an exported file.

    Rows of a table and photographs are read in Python, which explains mistakes; what the file has for that, which
    computes the same, is left out.

    Raises:
        ValueError: If the file was not exported by Kindling, or the model takes several inputs, or is neither a
            classifier nor a regression model.
    """
    session = onnx_session(path)
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        names = {*(each.name for each in fields(ModelCard)), "classifies"}
        facts = {name: json.loads(metadata[name]) for name in names & metadata.keys()}
        card = ModelCard.from_dict(facts)
        if not isinstance(features := json.loads(metadata.get(FEATURES, "null")), str | None):
            raise TypeError(f"{FEATURES} must be a name, got {features}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} was not written by {program_name()} export, or was modified: its metadata is missing or invalid"
        ) from error
    if card.task is None:
        raise ValueError(f"{path} is neither a classifier nor a regression model: run it with onnxruntime")
    if features is not None:
        session = _open(_without_encoding(path, features, session), path)
    if len(session.get_inputs()) > 1:
        raise ValueError(f"{path} takes several inputs: run it with onnxruntime")

    output = OUTPUTS[card.task]

    def compute(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run([output], {session.get_inputs()[0].name: inputs.numpy()})[0])

    return Predictor(compute, card)


def _without_encoding(path: Path, features: str, session: Any) -> bytes:
    """Return the part of a file that computes the outputs from encoded features."""
    import onnx

    outputs = [each.name for each in session.get_outputs()]
    try:
        network = onnx.utils.Extractor(onnx.load_model(path)).extract_model([features], outputs)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: it lacks {features!r}") from error
    return bytes(network.SerializeToString())


def check_self_contained(path: Path) -> None:
    """Raise ValueError if an ONNX file needs another file or a library other than onnxruntime, or is damaged."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's, which is a package of its own
        raise ValueError(f"{path} is damaged or not an ONNX file") from error
    functions = {(function.domain, function.name) for function in model.functions}
    for node in _messages(model, "NodeProto"):
        known = node.domain in DOMAINS or (node.domain, node.op_type) in functions
        if not known or node.op_type == "EPContext":
            name = strip_control_characters(f"{node.domain}:{node.op_type}")
            raise ValueError(f"{path} needs the custom operator {name}: {program_name()} export writes none")
    for tensor in _messages(model, "TensorProto"):
        if uses_external_data(tensor):
            other = strip_control_characters(ExternalDataInfo(tensor).location)
            raise ValueError(
                f"{path} keeps weights in another file, {other}: {program_name()} export writes a single file"
            )


def _messages(message: Any, kind: str) -> Iterator[Any]:
    """Yield all protobuf messages of a kind within a message, at any depth: in attributes, functions, subgraphs."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if hasattr(value, "extend") else [value]:
                if field.message_type.name == kind:
                    yield one
                yield from _messages(one, kind)
