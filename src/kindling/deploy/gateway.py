"""Wraps all requests: gives each an ID, checks access, and records it in the metrics and the access log."""

import json
import logging
import re
import secrets
import time
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kindling.deploy.access import authorize
from kindling.deploy.access_log import AccessLog
from kindling.deploy.metrics import Metrics
from kindling.utils.text import shorten

OTHER = "other"  # label of paths that the server does not have: a client could send any number of them
ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)

logger = logging.getLogger(__name__)


class Gateway:
    """ASGI middleware around all routes.

    Args:
        app: The application.
        key: See `authorize`.
        metrics: Where requests are counted.
        paths: The paths of the server, with the name of the model that each one asks; empty for none.
        open_paths: Those that tell nothing about the models, and need no key.
        log: See `AccessLog`; empty for none.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str,
        metrics: Metrics,
        paths: Mapping[str, str],
        open_paths: Container[str],
        log: str = "",
    ) -> None:
        self.app, self.key, self.metrics, self.paths, self.open_paths = app, key, metrics, paths, open_paths
        self.log = AccessLog(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        method = scope["method"]
        scope = dict(scope, method="GET" if method == "HEAD" else method)
        headers = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id", b"")
        request_id = sent_id if ID.fullmatch(sent_id) else secrets.token_hex(8).encode()
        scope["request_id"], scope["error"] = request_id.decode(), ""

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            if scope["path"] not in self.open_paths:
                authorize(headers, self.key)
            await self.app(scope, receive, send_with_id)
        except HTTPException as error:
            await error_response(scope, error)(scope, receive, send_with_id)
        except Exception:
            logger.exception(f"request {scope['request_id']}: internal error")
            if status:
                raise  # the response is incomplete: uvicorn closes the connection
            hidden = HTTPException(500, f"internal error: see the log of the server, request {scope['request_id']}")
            await error_response(scope, hidden)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in self.paths else OTHER
            count, histogram = self.metrics.observe_request(path, status)
            count.inc()
            histogram.observe(seconds)
            if self.log.path:
                self.log.write(json.dumps(self._entry(scope, method, status, seconds)))

    def _entry(self, scope: Scope, method: str, status: int, seconds: float) -> dict[str, Any]:
        """Return the line of a request in the access log."""
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": scope["request_id"],
            "client": (scope.get("client") or ("",))[0],
            "method": method,
            "path": scope["path"][:200],
            "status": status,
            "ms": round(1000 * seconds, 2),
        }
        more = {"model": self.paths.get(scope["path"]), "samples": scope.get("samples"), "error": scope["error"]}
        return entry | {name: value for name, value in more.items() if value}


def error_response(scope: Scope, error: HTTPException) -> JSONResponse:
    """Return an error as one line of JSON, and keep it for the access log."""
    scope["error"] = shorten(error.detail)
    return JSONResponse({"error": scope["error"]}, error.status_code, error.headers)
