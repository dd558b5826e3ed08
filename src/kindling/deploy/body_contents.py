"""Turns the contents of bodies into inputs: numbers or rows as JSON, images, or files of a form."""

import codecs
import json
import re
from collections.abc import Callable
from typing import Any

import pydantic_core
import torch
from torch import Tensor

from kindling.data.images.bit_depth import warn_small_range
from kindling.deploy.predictor import Predictor
from kindling.utils.inputs import decode_image
from kindling.utils.tensors import to_float, to_input_tensor

MAX_PIXELS = 16_000_000  # of a decoded image, 0.6 GB; a large JPEG is decoded at reduced size, so any photo passes
EXPLAINED_BYTES = 1_000_000  # of broken JSON: reading a longer body again would delay other requests
ROWS = re.compile(rb'\s*\{\s*"rows"\s*:')
MAX_CELL = 1e300  # numbers of a table are smaller, so that scaling them does not overflow

Files = list[tuple[str, bytes]]  # names and contents
CheckSampleCount = Callable[[int], object]  # called before the samples are decoded; raises if there are too many


def from_images(files: Files, predictor: Predictor, check_sample_count: CheckSampleCount = int) -> Tensor:
    """Return image files as inputs (N, C, H, W).

    Raises:
        ValueError: If there is none, one is broken or too large, or the model does not take images.
    """
    if not predictor.card.takes_images:
        raise ValueError(f"the model takes {predictor.takes}, not images or other files: send JSON")
    if not files:
        raise ValueError("the form has no files")
    check_sample_count(len(files))
    card, images = predictor.card, []
    for name, data in files:
        try:
            images.append(to_float(decode_image(data, card.input_shape, MAX_PIXELS, card.levels)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    warn_small_range([name[:100] for name, _ in files], card.levels, [data for _, data in files])
    return torch.stack(images)


def from_json(body: bytes, predictor: Predictor, check_sample_count: CheckSampleCount = int) -> Tensor:
    """Return inputs (N, *input_shape) from `{"inputs": numbers}` or, for a table, `{"rows": [{"age": 30}]}`.

    Raises:
        ValueError: If the body has another form.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if predictor.card.columns is None and ROWS.match(body):
        raise ValueError(f"the model takes {predictor.takes}, not rows of a table")
    try:
        content = _parse_json(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not valid JSON: {_explain_json_error(error)}") from error
    if not isinstance(content, dict) or len(content.keys() & {"inputs", "rows"}) != 1:
        raise ValueError(
            f'the body must be {{"inputs": ...}}, or for a table {{"rows": ...}}: the model takes {predictor.takes}'
        )
    if "inputs" in content:
        # No strings: NumPy would allocate the length of the longest for each.
        if body.count(b'"') != 2 or isinstance(content["inputs"], dict):
            raise ValueError(f"inputs must be numbers in lists: {_expected_body(predictor)}")
        inputs = to_input_tensor(content["inputs"], predictor.card.input_shape)  # not much more than the body
        check_sample_count(len(inputs))
        return inputs
    rows = content["rows"]
    if isinstance(rows, list):
        check_sample_count(len(rows))
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError('rows must be a list of objects, one per row: [{"age": 30}]')
    if any(isinstance(value, list | dict) for row in rows for value in row.values()):
        raise ValueError("the values of a row must be numbers, text, true, false or null")
    if any(isinstance(value, int | float) and not abs(value) < MAX_CELL for row in rows for value in row.values()):
        raise ValueError("the numbers of a row must be finite; null is a missing one")
    return predictor.inputs(rows)


def _parse_json(body: bytes) -> Any:
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)  # twice as fast as `json`,
    except ValueError:  # which explains errors
        if b"\0" in body[:4]:
            raise ValueError("send it in UTF-8") from None
        if len(body) > EXPLAINED_BYTES:
            raise
        return json.loads(body, parse_constant=_refuse_constant)


def _expected_body(predictor: Predictor) -> str:
    if predictor.card.columns is not None:
        return f'for a table, the body must be {{"rows": [{{"column": value}}]}}: the model takes {predictor.takes}'
    return 'the body must be {"inputs": [...]}, with no text or object in the lists'


def _explain_json_error(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"line {error.lineno}, column {error.colno}; check the quotation marks, commas and brackets"
        case UnicodeDecodeError():
            return "send it in UTF-8"
        case RecursionError():
            return "it is nested too deeply"
    return str(error)  # a number is not finite, or has too many digits


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON; null is a missing value")
