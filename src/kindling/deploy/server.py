"""The HTTP server: its routes."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from torch import Tensor

from kindling import __version__
from kindling.data.tables.rows import distinct_columns
from kindling.deploy.api_schema import ERRORS, RESPONSES, TOP, ModelInfo, ModelList, Status, describe_api
from kindling.deploy.batching import Batcher, QueueFullError
from kindling.deploy.gateway import PROBES, Gateway, error_response
from kindling.deploy.metrics import Metrics
from kindling.deploy.request_bodies import BodyReader
from kindling.deploy.response_bodies import check_entries, response_body
from kindling.deploy.served_models import ServedModel

MAX_TOP = 9999
PROBE_SECONDS = 5.0  # within which a model that is ready predicts a sample
DOCS_FILES = ("swagger-ui.css", "swagger-ui-bundle.js")  # in the package fastapi-swagger

logger = logging.getLogger(__name__)

Top = Annotated[int, Query(ge=1, le=MAX_TOP, description="Number of classes to list, most probable first.")]
FOLDER = Path(__file__).parent
Endpoint = Callable[..., Awaitable[Response]]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Service:
    """Models behind HTTP.

    Args:
        models: The models. The first one has the addresses /predict and /info, each one those under /models/NAME.
        metrics: The metrics that the models write.
        key: Key that clients must send as `Authorization: Bearer KEY`; empty for none.
        max_bytes: Maximum length of the body of a request.
        access_log: See `Gateway`.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        metrics: Metrics,
        key: str = "",
        max_bytes: int = 10_000_000,
        access_log: str = "",
    ) -> None:
        self.models = models
        self.prefixes = {"": models[0]} | {f"/models/{model.name}": model for model in models}
        self.metrics, self.key, self.max_bytes, self.access_log = metrics, key, max_bytes, access_log
        self.reader = BodyReader(max_bytes)
        self._probe = asyncio.Lock()
        self._probed_at, self._problem = -1.0, ""

    def app(self, lifespan: Lifespan | None = None) -> FastAPI:
        """Return the application, for any ASGI server; `lifespan` runs from its start to its end."""
        app = FastAPI(
            title="Kindling",
            version=__version__,
            docs_url=None,  # FastAPI's own page loads files from the internet
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
            lifespan=lifespan,
            exception_handlers={HTTPException: refuse, RequestValidationError: refuse_parameter},
        )
        add, model_by_path = app.add_api_route, {}
        for prefix, model in self.prefixes.items():
            task = model.current.predictor.card.task
            common: dict[str, Any] = {"responses": ERRORS, "tags": [f"model {model.name}"]}
            add(f"{prefix}/predict", self._predict(model), methods=["POST"], response_model=RESPONSES[task], **common)
            add(f"{prefix}/info", self._info(model), response_model=ModelInfo, **common)
            add(f"{prefix}/", file(FOLDER / "page.html"), include_in_schema=False)
            model_by_path[f"{prefix}/predict"] = model.name
        common = {"responses": ERRORS, "tags": ["server"]}
        add("/models", self.list_models, response_model=ModelList, **common)
        add("/health", self.health, response_model=Status, tags=["server"])
        add("/ready", self.ready, response_model=Status, **common)
        add("/metrics", self.show_metrics, response_class=PlainTextResponse, **common)
        add("/openapi.json", self._openapi(app), include_in_schema=False)
        add("/docs", file(FOLDER / "docs.html"), include_in_schema=False)
        for name in DOCS_FILES:
            add(f"/docs/{name}", file(files("fastapi_swagger") / "resources" / name), include_in_schema=False)
        paths = {route.path: model_by_path.get(route.path, "") for route in app.routes if isinstance(route, APIRoute)}
        pages = (f"{prefix}/" for prefix in self.prefixes)
        public = {*pages, *PROBES, "/docs", *(f"/docs/{name}" for name in DOCS_FILES)}
        app.add_middleware(Gateway, self.key, self.metrics, paths, public, self.access_log)
        return app

    def _predict(self, model: ServedModel) -> Endpoint:
        async def predict(request: Request, top: Top = TOP) -> Response:
            """Predict the samples in the body: numbers or rows as JSON, an image file, or a form with image files."""
            current = model.current
            card = current.predictor.card
            try:
                with self.reader.reservation() as reserve:
                    inputs = await self.reader.read(request, current.predictor, current.max_samples, reserve)
                    request.scope["samples"] = len(inputs)
                    check_entries(len(inputs) * min(top, len(card.classes)))  # at least, before they are computed
                    outputs = await compute(current.batcher, inputs)
                    if not np.isfinite(outputs.numpy()).all():
                        reason = "the inputs are too large, or the model diverged"
                        raise ValueError(f"the prediction is not finite: {reason}")
                    body = await response_body(outputs, card, top, reserve)
            except ValueError as error:
                raise HTTPException(400, str(error)) from error
            except QueueFullError as error:
                raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
            return Response(body, media_type="application/json")

        return predict

    def _info(self, model: ServedModel) -> Endpoint:
        async def info() -> Response:
            """Describe the model and its input."""
            current = model.current
            card = current.predictor.card.as_dict()
            if card["columns"] is not None:
                card["columns"] = distinct_columns(card["columns"])  # the members of an ensemble share them
            if card["task"] != "regression":
                del card["target"], card["unit"]
            more = {"version": current.version, "takes": current.predictor.takes, "max_bytes": self.max_bytes}
            names = [each.name for each in self.models]
            return JSONResponse({**card, **more, "name": model.name, "models": names})

        return info

    async def list_models(self) -> Response:
        """List the models; the first one also has the short addresses /predict and /info."""
        summaries = []
        for model in self.models:
            card, version = model.current.predictor.card, model.current.version
            about = {"name": model.name, "model": card.model, "version": version, "task": card.task}
            summaries.append({**about, "path": f"/models/{model.name}"})
        return JSONResponse({"models": summaries})

    async def health(self) -> Response:
        """Report that the process is alive; needs no key."""
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        """Report whether each model predicts a sample within seconds; needs no key."""
        async with self._probe:  # at most once a second, whoever asks
            if time.monotonic() > self._probed_at + 1:
                problems = await asyncio.gather(*map(find_problem, self.models))
                self._problem = next(filter(None, problems), "")
                self._probed_at = time.monotonic()
        if self._problem:
            raise HTTPException(503, self._problem, {"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def show_metrics(self) -> Response:
        """Return the metrics for Prometheus."""
        return Response(self.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    def _openapi(self, app: FastAPI) -> Endpoint:
        async def openapi() -> Response:
            return JSONResponse(describe_api(app, self.prefixes, bool(self.key)))

        return openapi


async def compute(batcher: Batcher, inputs: Tensor) -> Tensor:
    """Return the outputs of a model; a ValueError of the model becomes a RuntimeError, as no client caused it."""
    try:
        return await batcher.submit(inputs)
    except ValueError as error:
        raise RuntimeError(f"the model failed: {error}") from error


async def find_problem(model: ServedModel) -> str:
    """Return why a model does not predict a sample within seconds, without details; empty if it does."""
    try:
        await asyncio.wait_for(model.check(), PROBE_SECONDS)
    except QueueFullError:
        return "the server is busy: try again in a moment"
    except TimeoutError:
        logger.warning(f"model {model.name} is not ready: it did not predict a sample within {PROBE_SECONDS:g} s")
        return f"a model does not predict a sample within {PROBE_SECONDS:g} s"
    except Exception:
        logger.exception(f"model {model.name} is not ready")
        return "a model fails: see the log of the server"
    return ""


def file(path: Any) -> Endpoint:
    """Return an endpoint that returns a file."""

    async def read() -> Response:
        return FileResponse(path)

    return read


async def refuse(request: Request, error: Exception) -> Response:
    """Return an error of a client as JSON."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        available = "POST /predict, GET /info, /models, /health, /ready, /metrics, /docs, /"
        reason = f"{request.method} {request.url.path} does not exist; available: {available}"
        if request.url.path.startswith("/models/") and error.status_code == 404:
            reason = f"{request.method} {request.url.path} does not exist: GET /models lists the models and their paths"
        error = HTTPException(error.status_code, reason, error.headers)
    return error_response(request.scope, error)


async def refuse_parameter(request: Request, error: Exception) -> Response:
    """Return an invalid parameter, which can only be `top`, as one line of JSON."""
    assert isinstance(error, RequestValidationError)
    found = str(error.errors()[0]["input"])[:20]
    return error_response(request.scope, HTTPException(400, f"top must be a number from 1 to {MAX_TOP}, got {found}"))
