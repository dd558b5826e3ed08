"""The encoding of the rows of a table as ONNX operators: what `kindling.data.tables.rows` does, for typed values.

The inputs are one array (N,) per column: float64 for numbers, NaN where missing; strings for categories and for dates
in ISO format, empty where missing.
"""

from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from kindling.data.tables.rows import distinct_columns, width
from kindling.data.tables.values import Column
from kindling.deploy.onnx_columns import Placed, add_category, add_numbers
from kindling.deploy.onnx_graph import OnnxGraph, feed_network
from kindling.utils.text import join_names

FORMATS = {"number": "number{unit}; NaN: missing", "date": "2024-12-31T23:59:59; empty: missing"}


def add_encoding(network: Any, columns: Sequence[Column]) -> str:
    """Let an ONNX model of encoded features take the columns of a table instead.

    Args:
        network: The model, which is changed. Its only input has the shape (N, F).
        columns: The columns. An input is named after its column, with a further "_" if an output has this name.

    Returns:
        The name of the encoded features.

    Raises:
        ValueError: If the members of an ensemble read a column in different ways.
    """
    import onnx

    distinct = distinct_columns(columns)
    _check_kinds(columns, distinct)
    names = _input_names(distinct, {each.name for each in network.graph.output})
    [features] = network.graph.input
    batch = features.type.tensor_type.shape.dim[0].dim_param
    types = {True: onnx.TensorProto.DOUBLE, False: onnx.TensorProto.STRING}
    inputs = [
        onnx.helper.make_tensor_value_info(name, types[column["kind"] == "number"], [batch], _describe(column))
        for name, column in zip(names, distinct, strict=True)
    ]

    def encode(root: str) -> tuple[OnnxGraph, str]:
        graph = OnnxGraph(f"{root}encoding/")
        of_column = {column["name"]: name for column, name in zip(distinct, names, strict=True)}
        return graph, _encode(graph, columns, [of_column[column["name"]] for column in columns])

    network.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 2))
    return feed_network(network, inputs, encode)


def _check_kinds(columns: Sequence[Column], distinct: Sequence[Column]) -> None:
    """Raise ValueError if the members of an ensemble read a column as different kinds, or in different units."""
    first = {column["name"]: column for column in distinct}
    for column in columns:
        name, here, there = column["name"], column, first[column["name"]]
        if (here["kind"], here.get("units")) != (there["kind"], there.get("units")):
            raise ValueError(
                f"the members of the ensemble read column {name} as different kinds, {there['kind']} and "
                f"{here['kind']}, or in different units: export a single member"
            )


def _input_names(columns: Sequence[Column], taken: Collection[str]) -> list[str]:
    names: list[str] = []
    for column in columns:
        name = column["name"] or "column"
        while name in {*taken, *names}:
            name += "_"
        names.append(name)
    return names


def _describe(column: Column) -> str:
    """Return a description of an input, for people who look at the file."""
    if column["kind"] == "category":
        known: list[str] = column.get("known") or column["values"]
        return f"{join_names(known, 10)}; empty: missing"
    units = column.get("units", ())
    return FORMATS[column["kind"]].format(unit=f" in {units[0]}" if units else "")


def _encode(graph: OnnxGraph, columns: Sequence[Column], names: Sequence[str]) -> str:
    """Return the features (N, F) of columns, given the names of their inputs."""
    starts = accumulate(map(width, columns), initial=0)
    placed = [Placed(*each) for each in zip(columns, names, starts, strict=False)]
    blocks = add_numbers(graph, [each for each in placed if each.column["kind"] != "category"])
    for each in placed:
        if each.column["kind"] == "category":
            blocks += add_category(graph, each)
    joined = graph.add("Concat", *(features for features, _ in blocks), axis=1)
    positions = np.argsort([position for _, part in blocks for position in part])
    return graph.add("Gather", joined, positions, axis=1)
