"""The server: what it answers to, and what it refuses."""

import asyncio
import hmac
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from kindling.deploy.answer import answers
from kindling.deploy.batching import Batcher, TooBusyError
from kindling.deploy.bodies import form_files, from_images, from_json, whole_body
from kindling.predictor import Predictor

QUICK = 16_384  # bytes of JSON that are read sooner than a thread is found for them
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
        self.readers = ThreadPoolExecutor(2)  # so many images are decoded at once, however many arrive

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/info", self.info),
            Route("/predict", self.predict, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: refuse, Exception: fail})

    async def page(self, request: Request) -> Response:
        """A page to try the model on."""
        return HTMLResponse(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    async def health(self, request: Request) -> Response:
        """Says that the server is up; needs no key."""
        return JSONResponse({"status": "ok"})

    async def info(self, request: Request) -> Response:
        """What the model is and takes."""
        self.check_key(request)
        return JSONResponse(
            {**self.predictor.card.as_dict(), "takes": self.predictor.takes, "most_bytes": self.most_bytes}
        )

    async def predict(self, request: Request) -> Response:
        """Answers with the classes of the samples in the body."""
        self.check_key(request)
        top = request.query_params.get("top", str(TOP))
        if not (top.isdecimal() and 1 <= int(top) <= 1000):
            raise HTTPException(400, f"top must be a number from 1 to 1000, not {top[:20]}")
        body = await whole_body(request, self.most_bytes)
        try:
            probabilities = await self.batcher.ask(await self.inputs(request, body))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except TooBusyError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        if not probabilities.isfinite().all():
            raise HTTPException(500, "the model gives no probabilities for this: it diverged when it was trained")
        return JSONResponse({"predictions": answers(probabilities, self.predictor.card.classes, int(top))})

    def check_key(self, request: Request) -> None:
        """Raises HTTPException where the key is missing or wrong."""
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(sent.encode(), self.key.encode()):
            raise HTTPException(
                401, "send the key in a header: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    async def inputs(self, request: Request, body: bytes) -> Tensor:
        """The samples in a body, shape (N, *input_shape).

        Raises:
            ValueError: If there are none that the model takes.
        """
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            read = partial(from_images, await form_files(request, body), self.predictor)
        elif body.lstrip()[:1] in (b"{", b"["):
            read = partial(from_json, body, self.predictor)
            if len(body) <= QUICK:
                return read()
        else:
            read = partial(from_images, [("the body", body)], self.predictor)
        return await asyncio.get_running_loop().run_in_executor(self.readers, read)


async def refuse(request: Request, error: Exception) -> Response:
    """What a client did wrong, as JSON."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in (404, 405):
        message = f"there is no {request.method} {request.url.path}: there are POST /predict, GET /info, /health and /"
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def fail(request: Request, error: Exception) -> Response:
    """What went wrong here, as JSON; uvicorn logs the rest."""
    return JSONResponse({"error": "the server failed to answer; its log says why"}, 500)
