"""Reads the bodies of requests: numbers or rows as JSON, an image, or a form with files."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import prod
from typing import Any

import pydantic_core
import torch
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from torch import Tensor

from kindling.data.images.bit_depth import warn_small_range
from kindling.deploy.predictor import Predictor
from kindling.utils.inputs import decode_image
from kindling.utils.tensors import to_float, to_input_tensor
from kindling.utils.text import count_noun

MAX_PIXELS = 16_000_000  # of a decoded image, 0.6 GB; a large JPEG is decoded at reduced size, so any photo passes
MAX_FILES = 64  # per form
MAX_CELL = 1e300  # numbers of a table are smaller, so that scaling them does not overflow
MAX_PENDING_BYTES = 200_000_000  # of all requests in process: their bodies, and the tensors of images and rows
INLINE_BYTES = 16_384  # JSON that is parsed in the event loop; up to here, a thread would cost more
TIMEOUT = 30  # seconds within which a body must arrive

FLOAT_BYTES = 4

Files = list[tuple[str, bytes]]  # names and contents
Admit = Callable[[int], object]  # called with the number of samples before they are decoded; raises to refuse them


async def read_body(request: Request, max_bytes: int, reserve: Callable[[int], None]) -> bytes:
    """Return the body of a request.

    Args:
        request: The request.
        max_bytes: Maximum length of the body.
        reserve: Called with the length of each part of the body that arrives.

    Raises:
        HTTPException: If it is longer than `max_bytes`, or does not arrive in time.
    """
    body = bytearray()
    announced = request.headers.get("content-length", "")
    too_long = re.fullmatch("[0-9]+", announced) is not None and float(announced) > max_bytes
    more = True
    try:
        async with asyncio.timeout(TIMEOUT):
            while more:
                message = await request.receive()  # `request.stream()` takes longer than the rest of this function
                if message["type"] == "http.disconnect":
                    raise HTTPException(400, "request body is truncated")
                part = message.get("body", b"")
                more = message.get("more_body", False)
                if too_long or len(body) + len(part) > max_bytes:
                    raise HTTPException(413, f"the body is longer than {max_bytes:,} bytes")
                reserve(len(part))
                body += part
    except TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {TIMEOUT} seconds") from error
    return bytes(body)


class BodyReader:
    """Turns the bodies of requests into inputs; large ones in threads, a limited number at once.

    Args:
        max_bytes: Maximum length of a body.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._pending_bytes = 0
        self._lock = threading.Lock()  # of `_pending_bytes`
        self._threads = ThreadPoolExecutor(2)
        self._reading = asyncio.Semaphore(2)  # limits how many images are decoded at once

    @asynccontextmanager
    async def inputs(self, request: Request, predictor: Predictor, max_samples: int) -> AsyncIterator[Tensor]:
        """Yield the samples in the body of a request, shape (N, *input_shape).

        Raises:
            ValueError: If the model does not take such a body.
            HTTPException: If the body is too long or incomplete, has too many samples, or too many requests are being
                processed.
        """
        with self._reservation() as reserve:
            body = await read_body(request, self.max_bytes, reserve)

            def admit(samples: int) -> None:
                if samples > max_samples:
                    most = count_noun(max_samples, "sample", "samples")
                    raise HTTPException(413, f"a request may have at most {most}, got {samples:,}")
                reserve(samples * prod(predictor.card.input_shape) * FLOAT_BYTES)

            yield await self._read(request, body, predictor, admit)

    @contextmanager
    def _reservation(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves memory for a request, which is free at the end.

        A single request is never refused, however large its images are.
        """
        reserved = 0

        def reserve(count: int) -> None:
            nonlocal reserved
            with self._lock:
                if self._pending_bytes > reserved and self._pending_bytes + count > MAX_PENDING_BYTES:
                    reason = "too many requests are being read: try again in a moment"
                    raise HTTPException(503, reason, {"Retry-After": "1"})
                self._pending_bytes += count
                reserved += count

        try:
            yield reserve
        finally:
            with self._lock:
                self._pending_bytes -= reserved

    async def _read(self, request: Request, body: bytes, predictor: Predictor, admit: Admit) -> Tensor:
        if not body.strip():
            raise ValueError(f"the body is empty: the model takes {predictor.takes}")
        read: Callable[[], Tensor] = partial(from_images, [("the body", body)], predictor, admit)
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            read = partial(from_images, await form_files(request, body), predictor, admit)
        elif body.lstrip()[:1] in (b"{", b"["):
            read = partial(from_json, body, predictor, admit)
            if len(body) <= INLINE_BYTES:
                return read()
        async with self._reading:
            if await request.is_disconnected():
                raise HTTPException(400, "the client has disconnected")
            return await asyncio.get_running_loop().run_in_executor(self._threads, read)


async def form_files(request: Request, body: bytes) -> Files:
    """Return the files in a form, `multipart/form-data`.

    Raises:
        HTTPException: If it is damaged, or has too many files.
    """

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=MAX_FILES, max_fields=MAX_FILES) as form:
            uploads = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
            return [(upload.filename or name, await upload.read()) for name, upload in uploads]
    except HTTPException as error:
        reason = "is damaged, or its boundary is missing: send it as curl -F image=@photo.jpg does"
        if "Too many" in error.detail:
            reason = f"has more than {MAX_FILES} files or fields: send fewer at a time"
        raise HTTPException(error.status_code, f"the form {reason}") from error


def from_images(files: Files, predictor: Predictor, admit: Admit = int) -> Tensor:
    """Return image files as inputs (N, C, H, W).

    Raises:
        ValueError: If there is none, one is broken or too large, or the model does not take images.
    """
    if not predictor.card.takes_images:
        raise ValueError(f"the model takes {predictor.takes}, not images or other files: send JSON")
    if not files:
        raise ValueError("the form has no files")
    admit(len(files))
    card, images = predictor.card, []
    for name, data in files:
        try:
            images.append(to_float(decode_image(data, card.input_shape, MAX_PIXELS, card.levels)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    warn_small_range([name[:100] for name, _ in files], card.levels, [data for _, data in files])
    return torch.stack(images)


def from_json(body: bytes, predictor: Predictor, admit: Admit = int) -> Tensor:
    """Return inputs (N, *input_shape) from `{"inputs": numbers}` or, for a table, `{"rows": [{"age": 30}]}`.

    Raises:
        ValueError: If the body has another form.
    """
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
        admit(len(inputs))
        return inputs
    rows = content["rows"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError('rows must be a list of objects, one per row: [{"age": 30}]')
    admit(len(rows))
    if any(isinstance(value, list | dict) for row in rows for value in row.values()):
        raise ValueError("the values of a row must be numbers, text, true, false or null")
    if any(isinstance(value, int | float) and not abs(value) < MAX_CELL for row in rows for value in row.values()):
        raise ValueError("the numbers of a row must be finite; null is a missing one")
    return predictor.inputs(rows)


def _parse_json(body: bytes) -> Any:
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)  # twice as fast as `json`,
    except ValueError:  # which also reads UTF-16 and explains errors
        return json.loads(body, parse_constant=_refuse_constant)


def _expected_body(predictor: Predictor) -> str:
    if predictor.card.columns is not None:
        return f'for a table, the body must be {{"rows": [{{"column": value}}]}}: the model takes {predictor.takes}'
    return 'the body must be {"inputs": ...} without other strings'


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
