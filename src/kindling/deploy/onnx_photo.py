"""The decoding of photographs as ONNX operators: what `kindling.utils.inputs.fit_image` does, for pixels of any size.

Columns are resized, rounded to uint8, then rows. So do these operators: `Resize` of ONNX can't crop between
two pixels, and not all programs antialias it, so the pixels are multiplied by weights that the file computes from the
size. `BLOCK` output columns at a time need only a narrow part of the photograph as floats, which saves memory and time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kindling.deploy.onnx_graph import OnnxGraph, feed_network

BLOCK = 16
# By EXIF orientation, of which 0 is invalid: the axes of the rows and of the columns, and whether each is reversed.
AXES = [[0, 1]] * 5 + [[1, 0]] * 4
REVERSED = [[False, False], [False, False], [False, True], [True, True], [True, False]]
REVERSED += [[False, False], [False, True], [True, True], [True, False]]
GRAY = [[19595.0], [38470.0], [7471.0]]  # parts of 65,536 of red, green and blue in Pillow's grayscale

Crop = Callable[[OnnxGraph, str, str], str]  # returns columns from a first to a last one, (columns, rows, channels)


def add_decoding(network: Any, shape: tuple[int, ...]) -> str:
    """Let an ONNX model of images of one size take the pixels of a photograph of any size instead.

    Args:
        network: The model, which is changed. Its only input has the shape (N, C, H, W).
        shape: (C, H, W).

    Returns:
        The name of the decoded image, (1, C, H, W).
    """
    import onnx

    kind, value = onnx.TensorProto, onnx.helper.make_tensor_value_info
    taken = {each.name for each in network.graph.output}
    image, orientation = (name + "_" * (name in taken) for name in ("image", "orientation"))
    inputs = [
        value(image, kind.UINT8, ["height", "width", "channels"], "RGB, or RGBA, which is put on white"),
        value(orientation, kind.INT32, [], "EXIF orientation, 1 to 8; 1: upright"),
    ]

    def decode(root: str) -> tuple[OnnxGraph, str]:
        graph = OnnxGraph(f"{root}decoding/")
        return graph, _decode(graph, image, orientation, shape)

    return feed_network(network, inputs, decode)


def _decode(graph: OnnxGraph, image: str, orientation: str, shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    is_known = graph.add("Equal", graph.add("Clip", orientation, np.int32(0), np.int32(8)), orientation)
    known = graph.add("Where", is_known, orientation, np.int32(0))
    axes, are_reversed = graph.add("Gather", AXES, known), graph.add("Gather", REVERSED, known)
    sizes = graph.cast(graph.add("Gather", graph.add("Shape", image), axes), "DOUBLE")  # after turning
    scale = graph.add("ReduceMin", graph.add("Div", sizes, [float(height), float(width)]), keepdims=0)
    support = graph.add("Max", scale, 1.0)  # half the input pixels that an output pixel needs
    down, across = (
        _centers(graph, graph.pick(sizes, axis), scale, number, graph.pick(are_reversed, axis))
        for axis, number in enumerate((height, width))
    )
    top, bottom = _window(graph, down, support, graph.pick(sizes, 0))

    def crop(part: OnnxGraph, left: str, right: str) -> str:
        starts, ends = part.add("Concat", top, left, axis=0), part.add("Concat", bottom, right, axis=0)
        cropped = part.add("Slice", image, starts, ends, axes)
        is_turned = part.add("Equal", part.pick(axes, 0), 1)
        turned = part.choose(
            is_turned, lambda yes: yes.add("Identity", cropped), lambda no: _transpose(no, cropped), "UINT8"
        )
        values = part.cast(turned, "FLOAT")
        has_alpha = part.add("Equal", part.pick(part.add("Shape", values), 2), 4)
        return part.choose(
            has_alpha, lambda yes: _put_on_white(yes, values), lambda no: no.add("Identity", values), "FLOAT"
        )

    narrow = _resize_columns(graph, crop, across, support, graph.pick(sizes, 1), width)  # (W, rows, 3)

    def crop_narrow(part: OnnxGraph, left: str, right: str) -> str:
        return part.cast(_transpose(part, part.add("Slice", narrow, left, right, [1])), "FLOAT")

    rows = graph.cast(graph.add("Squeeze", graph.add("Sub", bottom, top)), "DOUBLE")
    down = graph.add("Sub", down, graph.cast(top, "DOUBLE"))
    pixels = graph.cast(_resize_columns(graph, crop_narrow, down, support, rows, height), "FLOAT")  # (H, W, 3)
    if channels == 1:
        parts = graph.add("Add", graph.add("MatMul", pixels, np.array(GRAY, np.float32)), np.float32(32768))
        pixels = graph.add("Floor", graph.add("Div", parts, np.float32(65536)))
    pixels = graph.add("Transpose", graph.add("Div", pixels, np.float32(255)), perm=[2, 0, 1])
    return graph.add("Unsqueeze", pixels, [0])


def _centers(graph: OnnxGraph, size: str, scale: str, number: int, is_reversed: str) -> str:
    """Return the centers of output pixels along an axis in input pixels, (blocks, BLOCK); the last is repeated."""
    cropped = graph.add("Div", graph.add("Sub", size, graph.add("Mul", scale, float(number))), 2.0)
    indices = np.minimum(np.arange(-(-number // BLOCK) * BLOCK), number - 1).reshape(-1, BLOCK)
    centers = graph.add("Add", cropped, graph.add("Mul", scale, indices + 0.5))
    return graph.add("Where", is_reversed, graph.add("Sub", size, centers), centers)


def _window(graph: OnnxGraph, centers: str, support: str, size: str) -> tuple[str, str]:
    """Return the first input pixel that output pixels need and the one after the last, each (1,)."""
    first = graph.add("Floor", graph.add("Sub", graph.add("ReduceMin", centers), support))
    last = graph.add("Ceil", graph.add("Add", graph.add("ReduceMax", centers), support))
    first, last = (
        graph.add("Reshape", each, [1]) for each in (graph.add("Max", first, 0.0), graph.add("Min", last, size))
    )
    return graph.cast(first, "INT64"), graph.cast(last, "INT64")


def _resize_columns(graph: OnnxGraph, crop: Crop, centers: str, support: str, size: str, number: int) -> str:
    """Resize the columns of an image to `number`, antialiased with a triangle filter; return (number, rows, 3)."""
    centers_of_block = f"{graph.prefix}centers"

    def resize_block(part: OnnxGraph) -> str:
        first, last = _window(part, centers_of_block, support, size)
        indices = part.add("Range", part.add("Squeeze", first), part.add("Squeeze", last), 1)
        positions = part.add("Add", part.cast(indices, "DOUBLE"), 0.5)
        distances = part.add("Abs", part.add("Sub", positions, part.add("Unsqueeze", centers_of_block, [1])))
        weights = part.add("Max", part.add("Sub", support, distances), 0.0)  # (BLOCK, columns)
        weights = part.add("Div", weights, part.add("ReduceSum", weights, [1]))
        pixels = part.add("Reshape", crop(part, first, last), [0, -1])
        resized = part.add("MatMul", part.cast(weights, "FLOAT"), pixels)
        return part.cast(part.add("Add", resized, np.float32(0.5)), "UINT8")

    body = graph.subgraph(resize_block, "UINT8", (centers_of_block, "DOUBLE"))
    blocks = graph.add("Scan", centers, body=body, num_scan_inputs=1)  # (blocks, BLOCK, 3 * rows)
    image = graph.add("Reshape", blocks, [-(-number // BLOCK) * BLOCK, -1, 3])
    return graph.add("Slice", image, [0], [number], [0])


def _transpose(graph: OnnxGraph, image: str) -> str:
    return graph.add("Transpose", image, perm=[1, 0, 2])


def _put_on_white(graph: OnnxGraph, image: str) -> str:
    """Return an image (..., 4) with transparency as (..., 3) on white, rounded as Pillow does."""
    white, opacity = np.float32(255), graph.add("Slice", image, [3], [4], [2])
    colors = graph.add("Sub", white, graph.add("Slice", image, [0], [3], [2]))
    shade = graph.add("Div", graph.add("Mul", colors, opacity), white)
    return graph.add("Sub", white, graph.add("Ceil", graph.add("Sub", shade, np.float32(0.5))))
