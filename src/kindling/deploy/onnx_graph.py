"""A list of ONNX operators under construction."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET = 20  # the first with operators for strings
Operand = str | float | np.generic | Sequence[Any] | NDArray[Any]  # name of an array, or a constant


class OnnxGraph:
    """Collects operators and constants; each operator returns the name of its output.

    Args:
        prefix: Start of all names.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.subgraphs = 0

    def add(self, operator: str, *operands: Operand, domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output; numbers in Python are int64 or float64."""
        import onnx

        inputs = [each if isinstance(each, str) else self.constant(each) for each in operands]
        name = f"{self.prefix}{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name, domain=domain, **attributes))
        return name

    def constant(self, value: object) -> str:
        """Add a constant; texts are strings."""
        import onnx

        array = np.asarray(value, dtype=object if isinstance(value, str) else None)
        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def subgraph(self, compute: Callable[["OnnxGraph"], str], kind: str, *inputs: tuple[str, str]) -> Any:
        """Return a graph with one output of a type, for an operator such as `If`; `inputs` are names and types."""
        import onnx

        def value(name: str, kind: str) -> Any:
            return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DataType.Value(kind), None)

        self.subgraphs += 1
        inner = OnnxGraph(f"{self.prefix}graph_{self.subgraphs}/")
        output = value(compute(inner), kind)
        ends = [value(*each) for each in inputs], [output]
        return onnx.helper.make_graph(inner.nodes, inner.prefix, *ends, inner.constants)

    def choose(
        self, condition: str, yes: Callable[["OnnxGraph"], str], no: Callable[["OnnxGraph"], str], kind: str
    ) -> str:
        """Return the array of a type that one of two functions computes; only that one is computed."""
        branches = {"then_branch": self.subgraph(yes, kind), "else_branch": self.subgraph(no, kind)}
        return self.add("If", condition, **branches)

    def cast(self, array: str, kind: str) -> str:
        """Convert an array to a type, such as INT64."""
        import onnx

        return self.add("Cast", array, to=onnx.TensorProto.DataType.Value(kind))

    def pick(self, array: str, index: int) -> str:
        """Return one position of the last axis."""
        return self.add("Gather", array, index, axis=-1)

    def stack(self, arrays: list[str]) -> str:
        """Return arrays (N,) as the columns of one, (N, len(arrays))."""
        return self.add("Concat", *(self.add("Unsqueeze", array, [1]) for array in arrays), axis=1)

    def join(self, *texts: str) -> str:
        """Concatenate texts."""
        return self.add("StringConcat", *texts)

    def split(self, texts: str, **delimiter: str) -> str:
        """Split texts (...) at a delimiter, by default blanks; return the parts (..., P), padded with empty ones."""
        parts = self.add("StringSplit", texts, **delimiter)
        self.nodes[-1].output.append(f"{parts}_lengths")
        return parts


def feed_network(network: Any, inputs: Sequence[Any], compute: Callable[[str], tuple[OnnxGraph, str]]) -> str:
    """Let an ONNX model with one input take other inputs, from which operators compute it.

    Args:
        network: The model, which is changed.
        inputs: The new inputs.
        compute: Returns the operators and the name of what they compute, given the start of all names.

    Returns:
        The name of the former input.
    """
    import onnx

    root = "kindling/"
    while any(each.name.startswith(root) for each in inputs):
        root = f"_{root}"
    onnx.compose.add_prefix_graph(network.graph, f"{root}network/", rename_outputs=False, inplace=True)
    [former] = network.graph.input
    graph, computed = compute(root)
    graph.nodes.append(onnx.helper.make_node("Identity", [computed], [former.name]))
    nodes = [*graph.nodes, *network.graph.node]
    network.graph.ClearField("node")
    network.graph.node.extend(nodes)
    network.graph.initializer.extend(graph.constants)
    network.graph.value_info.append(former)  # with its shape, for those who cut the operators off
    network.graph.ClearField("input")
    network.graph.input.extend(inputs)
    return str(former.name)
