"""What the body of a request holds: numbers or rows as JSON, an image, or a form with files."""

import asyncio
import json
import re
from typing import Any

import torch
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from torch import Tensor

from kindling.data.images.decode import warn_small_range
from kindling.deploy.predictor import Predictor
from kindling.utils.inputs import decode_image, to_float, to_input_tensor

MOST_PIXELS = 16_000_000  # of an image as it is decoded: of a JPEG a fraction, so any photo passes; 0.6 GB at the most
MOST_FILES = 64  # in a form
SECONDS = 30  # in which a body must arrive

Files = list[tuple[str, bytes]]  # names and contents


async def read_body(request: Request, most: int) -> bytes:
    """The bytes of a body.

    Raises:
        HTTPException: If there are more than `most`, or they don't arrive in time.
    """
    body = bytearray()
    announced = request.headers.get("content-length", "")
    too_long = re.fullmatch("[0-9]+", announced) is not None and float(announced) > most
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                too_long = too_long or len(body) + len(part) > most
                if too_long:
                    raise HTTPException(413, f"the body is longer than {most:,} bytes")
                body += part
    except TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {SECONDS} seconds") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body was cut off") from error
    return bytes(body)


async def form_files(request: Request, body: bytes) -> Files:
    """The files of a form, `multipart/form-data`.

    Raises:
        HTTPException: If it is no such form.
    """

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            uploads = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
            return [(upload.filename or name, await upload.read()) for name, upload in uploads]
    except HTTPException as error:
        reason = "is damaged, or its boundary is missing: send it as curl -F image=@photo.jpg does"
        if "Too many" in error.detail:
            reason = f"has more than {MOST_FILES} files or fields: send fewer at a time"
        raise HTTPException(error.status_code, f"the form {reason}") from error


def from_images(files: Files, predictor: Predictor) -> Tensor:
    """Inputs (N, C, H, W) of image files.

    Raises:
        ValueError: If there are none, one is broken or too large, or the model takes something else.
    """
    if not predictor.card.takes_images:
        raise ValueError(f"the model takes no images but {predictor.takes}")
    if not files:
        raise ValueError("the form has no files")
    card, images = predictor.card, []
    for name, data in files:
        try:
            images.append(to_float(decode_image(data, card.input_shape, MOST_PIXELS, card.levels)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    warn_small_range([name[:100] for name, _ in files], card.levels, [data for _, data in files])
    return torch.stack(images)


def from_json(body: bytes, predictor: Predictor) -> Tensor:
    """Inputs (N, *input_shape) of `{"inputs": numbers}` or, for a table, `{"rows": [{"age": 30}]}`.

    Raises:
        ValueError: If it is something else.
    """
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not valid JSON: {_json_mistake(error)}") from error
    if not isinstance(content, dict) or len(content.keys() & {"inputs", "rows"}) != 1:
        raise ValueError(
            f'the body must be {{"inputs": ...}}, or for a table {{"rows": ...}}: the model takes {predictor.takes}'
        )
    if "inputs" in content:
        if body.count(b'"') != 2 or isinstance(
            content["inputs"], dict
        ):  # of texts NumPy would give each the room of the longest
            raise ValueError(f"inputs must be numbers in lists: {_way_out(predictor)}")
        return to_input_tensor(content["inputs"], predictor.card.input_shape)
    rows = content["rows"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError('rows must be a list of objects, one a row: [{"age": 30}]')
    if any(isinstance(value, list | dict) for row in rows for value in row.values()):
        raise ValueError("the values of a row must be numbers, text, true, false or null")
    if any(isinstance(value, int | float) and not abs(value) < 1e300 for row in rows for value in row.values()):
        raise ValueError("the numbers of a row must be finite; null is a missing one")
    return predictor.inputs(rows)


def _way_out(predictor: Predictor) -> str:
    if predictor.card.columns is not None:
        return f'for a table, the body is {{"rows": [{{"column": value}}]}}: the model takes {predictor.takes}'
    return 'the body is {"inputs": ...} with no other text in it'


def _json_mistake(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"line {error.lineno}, column {error.colno}; check the quotation marks, commas and brackets"
        case UnicodeDecodeError():
            return "send it in UTF-8"
        case RecursionError():
            return "it is nested too deeply"
    return str(error)  # of a number that is not finite, or has too many digits


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON; null is a missing value")
