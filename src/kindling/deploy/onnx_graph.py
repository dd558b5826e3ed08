"""A list of ONNX operators under construction."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Operand = str | float | list[int] | NDArray[Any]  # name of an array, or a constant


class OnnxGraph:
    """Collects operators and constants; each operator returns the name of its output.

    Args:
        prefix: Start of all names.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

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
