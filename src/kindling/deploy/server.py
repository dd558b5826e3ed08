"""The server: what it answers to, and what it refuses."""

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

from kindling.deploy.addresses import is_local
from kindling.deploy.batching import Batcher, QueueFullError
from kindling.deploy.predictor import Predictor
from kindling.deploy.request_bodies import form_files, from_images, from_json, read_body
from kindling.deploy.responses import to_response
from kindling.utils.text import shorten

QUICK = 16_384  # bytes of JSON that are read sooner than a thread is found for them
MOST_PENDING = 100_000_000  # bytes of all bodies at a time
MOST_SAMPLES = 4096  # in a request
TOP = 5  # classes in an answer, where ?top= does not say otherwise


class Service:
    """One model behind HTTP.

    Args:
        predictor: The model.
        key: What clients must send as `Authorization: Bearer KEY`; empty for none.
        most_bytes: Longest body of a request.
        batch: Samples that the model is asked at a time.
    """

    def __init__(self, predictor: Predictor, key: str = "", most_bytes: int = 10_000_000, batch: int = 64) -> None:
        self.predictor = predictor
        self.key = key
        self.most_bytes = most_bytes
        self.batcher = Batcher(predictor.compute, batch)
        self.pending = 0  # bytes of bodies that are being read or answered
        self.readers = ThreadPoolExecutor(2)
        self.reading = asyncio.Semaphore(2)  # so many images are decoded at once, however many arrive

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/info", self.info),
            Route("/predict", self.predict, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: handle_http_error, Exception: handle_error})

    async def page(self, request: Request) -> Response:
        """A page to try the model on."""
        return HTMLResponse(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    async def health(self, request: Request) -> Response:
        """Says that the server is up; needs no key."""
        return JSONResponse({"status": "ok"})

    async def info(self, request: Request) -> Response:
        """What the model is and takes."""
        self.admit(request)
        return JSONResponse(
            {**self.predictor.card.as_dict(), "takes": self.predictor.takes, "most_bytes": self.most_bytes}
        )

    async def predict(self, request: Request) -> Response:
        """Answers with the classes of the samples in the body."""
        self.admit(request)
        top = request.query_params.get("top", str(TOP))
        if not (re.fullmatch("[0-9]{1,4}", top) and int(top) >= 1):
            raise HTTPException(400, f"top must be a number from 1 to 9999, not {top[:20]}")
        body = await read_body(request, self.most_bytes)
        if self.pending + len(body) > MOST_PENDING:
            raise HTTPException(503, "too much is waiting to be read: try again in a moment", {"Retry-After": "1"})
        self.pending += len(body)
        try:
            inputs = await self.inputs(request, body)
            if len(inputs) > MOST_SAMPLES:
                raise HTTPException(413, f"{len(inputs):,} samples are more than {MOST_SAMPLES:,} in a request")
            probabilities = await self.batcher.ask(inputs)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except QueueFullError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        finally:
            self.pending -= len(body)
        if not probabilities.isfinite().all():
            raise HTTPException(500, "the model gives no probabilities for this: it diverged when it was trained")
        return JSONResponse({"predictions": to_response(probabilities, self.predictor.card.classes, int(top))})

    def admit(self, request: Request) -> None:
        """Raises HTTPException where the key is wrong, or a page from elsewhere asks by way of a browser here."""
        origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
        if origin and origin.partition("://")[2] != host:
            raise HTTPException(403, f"the server does not answer web pages of other origins, such as {origin[:100]}")
        if not self.key and not is_local(re.sub(r":\d*$", "", host).strip("[]")):  # a name of theirs that leads here
            raise HTTPException(403, "without a key the server answers to localhost and 127.0.0.1 alone")
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        sent = sent.strip() if scheme.lower() == "bearer" else ""
        if self.key and not hmac.compare_digest(sent.encode(), self.key.encode()):
            raise HTTPException(
                401, "send the key in a header: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    async def inputs(self, request: Request, body: bytes) -> Tensor:
        """The samples in a body, shape (N, *input_shape).

        Raises:
            ValueError: If there are none that the model takes.
        """
        if not body.strip():
            raise ValueError(f"the body is empty: the model takes {self.predictor.takes}")
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            read = partial(from_images, await form_files(request, body), self.predictor)
        elif body.lstrip()[:1] in (b"{", b"["):
            read = partial(from_json, body, self.predictor)
            if len(body) <= QUICK:
                return read()
        else:
            read = partial(from_images, [("the body", body)], self.predictor)
        async with self.reading:
            if await request.is_disconnected():
                raise HTTPException(400, "the client is gone")
            return await asyncio.get_running_loop().run_in_executor(self.readers, read)


async def handle_http_error(request: Request, error: Exception) -> Response:
    """What a client did wrong, as JSON."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in (404, 405):
        message = f"there is no {request.method} {request.url.path}: there are POST /predict, GET /info, /health and /"
    return JSONResponse({"error": shorten(message)}, error.status_code, error.headers)


async def handle_error(request: Request, error: Exception) -> Response:
    """What went wrong here, as JSON; uvicorn logs the rest."""
    return JSONResponse({"error": "the server failed to answer; its log says why"}, 500)
