"""Reads the bodies of requests: their length, time, memory and forms."""

import asyncio
import codecs
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import prod
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from torch import Tensor

from kindling.deploy.batching import MAX_WAITING_SECONDS, WAITED_TOO_LONG, QueueFullError
from kindling.deploy.body_contents import CheckSampleCount, Files, from_images, from_json
from kindling.deploy.predictor import Predictor
from kindling.utils.text import count_noun

MAX_FILES = 64  # per form
MAX_PENDING_BYTES = 200_000_000  # of all requests in process: their bodies, tensors of images and rows, and responses
INLINE_BYTES = 16_384  # JSON that is parsed in the event loop; up to here, a thread would cost more
TIMEOUT = 30  # seconds within which a body must arrive

FLOAT_BYTES = 4
BOUNDARY = re.compile(rb"[\w'()+,./:=? -]{1,70}", re.ASCII)  # of a form, RFC 2046
EXAMPLE = "curl -F image=@photo.jpg"

Reserve = Callable[[int], None]  # called with a number of bytes


async def read_body(request: Request, max_bytes: int, reserve: Reserve) -> bytes:
    """Return the body of a request; `reserve` is called with the length of each part that arrives.

    Raises:
        HTTPException: If it is longer than `max_bytes`, or does not arrive in time.
    """
    body = bytearray()
    headers = request.headers
    announced = headers.get("content-length", "")
    if re.fullmatch("[0-9]+", announced) and float(announced) > max_bytes:
        # A client that waits for `100 Continue` never sends the body.
        raise too_long(max_bytes, {"Connection": "close"} if "expect" in headers else None)
    more = True
    try:
        async with asyncio.timeout(TIMEOUT):
            while more:
                message = await request.receive()  # `request.stream()` takes longer than the rest of this function
                if message["type"] == "http.disconnect":
                    raise HTTPException(400, "request body is truncated")
                part = message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) + len(part) > max_bytes:
                    raise too_long(max_bytes)
                reserve(len(part))
                body += part
    except TimeoutError as error:
        reason = f"the body did not arrive within {TIMEOUT} seconds"
        raise HTTPException(408, reason, {"Connection": "close"}) from error
    return bytes(body)


def too_long(max_bytes: int, headers: dict[str, str] | None = None) -> HTTPException:
    """Return the error for a body that is longer than allowed."""
    return HTTPException(413, f"the body is longer than {max_bytes:,} bytes", headers)


class BodyReader:
    """Turns the bodies of requests into inputs; large ones in threads, a limited number at once.

    Args:
        max_bytes: Maximum length of a body.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._pending_bytes = 0
        self._lock = threading.Lock()  # of `_pending_bytes`
        self._reading = asyncio.Semaphore(2)  # limits how many images are decoded at once

    async def read(self, request: Request, predictor: Predictor, max_samples: int, reserve: Reserve) -> Tensor:
        """Return the samples in the body of a request, shape (N, *input_shape).

        Args:
            request: The request.
            predictor: The model.
            max_samples: Maximum number of samples.
            reserve: See `reservation`.

        Raises:
            ValueError: If the model does not take such a body.
            HTTPException: If the body is too long or incomplete, has too many samples, or too many requests are being
                processed.
            QueueFullError: If it has waited for too long.
        """

        def check_sample_count(samples: int) -> None:
            if samples > max_samples:
                most = count_noun(max_samples, "sample", "samples")
                raise HTTPException(413, f"a request may have at most {most}, got {samples:,}")
            reserve(samples * prod(predictor.card.input_shape) * FLOAT_BYTES)

        body = await read_body(request, self.max_bytes, reserve)
        return await self._convert(request, body, predictor, check_sample_count)

    @contextmanager
    def reservation(self) -> Iterator[Reserve]:
        """Yield a function that reserves memory for one request; it is released on exit.

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

    async def _convert(
        self, request: Request, body: bytes, predictor: Predictor, check_sample_count: CheckSampleCount
    ) -> Tensor:
        if not body.strip():
            raise ValueError(f"the body is empty: the model takes {predictor.takes}")
        convert: Callable[[], Tensor] = partial(from_images, [("the body", body)], predictor, check_sample_count)
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            convert = partial(from_images, await form_files(request, body), predictor, check_sample_count)
        elif body.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"["):
            convert = partial(from_json, body, predictor, check_sample_count)
            if len(body) <= INLINE_BYTES:
                return convert()
        async with self._turn():
            if await request.is_disconnected():
                raise HTTPException(400, "the client has disconnected")
            return await asyncio.to_thread(convert)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(MAX_WAITING_SECONDS):
                await self._reading.acquire()
        except TimeoutError as error:
            raise QueueFullError(WAITED_TOO_LONG) from error
        try:
            yield
        finally:
            self._reading.release()


async def form_files(request: Request, body: bytes) -> Files:
    """Return the files in a form, `multipart/form-data`.

    Raises:
        HTTPException: If it is damaged, or has too many files.
        ValueError: If it has only fields.
    """

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    # Only the boundary: Python would keep each charset that clients make up.
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    kind = b'multipart/form-data; boundary="%s"' % boundary if BOUNDARY.fullmatch(boundary) else b"multipart/form-data"
    scope = {**request.scope, "headers": [(b"content-type", kind)]}
    try:
        async with Request(scope, receive).form(max_files=MAX_FILES, max_fields=MAX_FILES) as form:
            uploads = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
            if form and not uploads:
                name = next(iter(form))[:100]
                raise ValueError(f"the part {name} of the form has no file name: send it as {EXAMPLE} does")
            return [(upload.filename or name, await upload.read()) for name, upload in uploads]
    except HTTPException as error:
        reason = f"is damaged, or its boundary is missing: send it as {EXAMPLE} does"
        if "Too many" in error.detail:
            reason = f"has more than {MAX_FILES} files or fields: send fewer at a time"
        raise HTTPException(error.status_code, f"the form {reason}") from error
