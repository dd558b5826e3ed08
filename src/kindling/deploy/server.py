"""The HTTP server: routes, limits and access control."""

import asyncio
import hmac
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from kindling.data.tables.rows import distinct_columns
from kindling.deploy.addresses import is_local
from kindling.deploy.batching import Batcher, QueueFullError
from kindling.deploy.predictor import Predictor
from kindling.deploy.request_bodies import form_files, from_images, from_json, read_body
from kindling.deploy.responses import to_predictions
from kindling.utils.text import count_noun, shorten

INLINE_BYTES = 16_384  # JSON that is parsed in the event loop; up to here, a thread would cost more
MAX_PENDING_BYTES = 100_000_000  # total size of the bodies that are being processed
MAX_SAMPLES = 4096  # per request
MAX_NUMBERS = 2**23  # probabilities per request: 34 MB
TOP = 5  # default of ?top=


class Service:
    """One model behind HTTP.

    Args:
        predictor: The model.
        key: Key that clients must send as `Authorization: Bearer KEY`; empty for none.
        max_bytes: Maximum length of the body of a request.
        batch_size: Maximum number of samples that are computed at once.
    """

    def __init__(self, predictor: Predictor, key: str = "", max_bytes: int = 10_000_000, batch_size: int = 64) -> None:
        self.predictor = predictor
        self.key = key
        self.max_bytes = max_bytes
        self.max_samples = max(1, min(MAX_SAMPLES, MAX_NUMBERS // max(1, len(predictor.card.classes))))
        self.batcher = Batcher(predictor.compute, batch_size)
        self.pending_bytes = 0  # of bodies that are being processed
        self.readers = ThreadPoolExecutor(2)
        self.reading = asyncio.Semaphore(2)  # limits how many images are decoded at once

    def app(self) -> Starlette:
        """Return the application, for any ASGI server."""
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/info", self.info),
            Route("/predict", self.predict, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: handle_http_error, Exception: handle_error})

    async def page(self, request: Request) -> Response:
        """Return a web page to try the model."""
        return HTMLResponse(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    async def health(self, request: Request) -> Response:
        """Report that the server is up; needs no key."""
        return JSONResponse({"status": "ok"})

    async def info(self, request: Request) -> Response:
        """Describe the model and its inputs."""
        self.authorize(request)
        card = self.predictor.card.as_dict()
        if card["columns"] is not None:
            card["columns"] = distinct_columns(card["columns"])  # the members of an ensemble share them
        return JSONResponse({**card, "takes": self.predictor.takes, "max_bytes": self.max_bytes})

    async def predict(self, request: Request) -> Response:
        """Predict the samples in the body."""
        self.authorize(request)
        top = request.query_params.get("top", str(TOP))
        if not (re.fullmatch("[0-9]{1,4}", top) and int(top) >= 1):
            raise HTTPException(400, f"top must be a number from 1 to 9999, got {top[:20]}")
        body = await read_body(request, self.max_bytes)
        if self.pending_bytes + len(body) > MAX_PENDING_BYTES:
            raise HTTPException(503, "too many requests are being read: try again in a moment", {"Retry-After": "1"})
        self.pending_bytes += len(body)
        try:
            inputs = await self.inputs(request, body)
            if len(inputs) > self.max_samples:
                most = count_noun(self.max_samples, "sample", "samples")
                raise HTTPException(413, f"a request may have at most {most}, got {len(inputs):,}")
            outputs = await self.batcher.submit(inputs)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except QueueFullError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        finally:
            self.pending_bytes -= len(body)
        if not outputs.isfinite().all():
            raise HTTPException(500, "the prediction is not a number: the model diverged during training")
        card = self.predictor.card
        predictions = to_predictions(outputs, str(card.task), card.classes, int(top), card.decision)
        return JSONResponse({"predictions": predictions})

    def authorize(self, request: Request) -> None:
        """Raise HTTPException if the key is wrong, or a web page of another origin sends the request."""
        origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
        if origin and origin.partition("://")[2] != host:
            raise HTTPException(403, f"requests from web pages of other origins are refused: {origin[:100]}")
        if not self.key and not is_local(re.sub(r":\d*$", "", host).strip("[]")):
            # A foreign name that resolves to this machine (DNS rebinding).
            raise HTTPException(403, "without a key, the server is available only as localhost and 127.0.0.1")
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        sent = sent.strip() if scheme.lower() == "bearer" else ""
        if self.key and not hmac.compare_digest(sent.encode(), self.key.encode()):
            raise HTTPException(
                401, "send the key in a header: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    async def inputs(self, request: Request, body: bytes) -> Tensor:
        """Return the samples in a body, shape (N, *input_shape).

        Raises:
            ValueError: If the model does not take such a body.
        """
        if not body.strip():
            raise ValueError(f"the body is empty: the model takes {self.predictor.takes}")
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            read = partial(from_images, await form_files(request, body), self.predictor)
        elif body.lstrip()[:1] in (b"{", b"["):
            read = partial(from_json, body, self.predictor)
            if len(body) <= INLINE_BYTES:
                return read()
        else:
            read = partial(from_images, [("the body", body)], self.predictor)
        async with self.reading:
            if await request.is_disconnected():
                raise HTTPException(400, "the client has disconnected")
            return await asyncio.get_running_loop().run_in_executor(self.readers, read)


async def handle_http_error(request: Request, error: Exception) -> Response:
    """Return the error of a client as JSON."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in (404, 405):
        message = f"there is no {request.method} {request.url.path}: use POST /predict, or GET /info, /health or /"
    return JSONResponse({"error": shorten(message)}, error.status_code, error.headers)


async def handle_error(request: Request, error: Exception) -> Response:
    """Return an error of the server as JSON; uvicorn logs its traceback."""
    return JSONResponse({"error": "internal error: see the log of the server"}, 500)
