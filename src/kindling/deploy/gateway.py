"""Wraps all requests: gives each an ID, checks access, and records it in the metrics and the access log."""

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kindling.deploy.addresses import is_local
from kindling.deploy.metrics import Metrics
from kindling.utils.text import shorten

OTHER = "other"  # label of paths that the server does not have: a client could send any number of them
ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)
MAX_RUNNING = 2048  # requests of a process; as many again of public paths
PROBES = ("/health", "/ready")  # handled even by a busy server

logger = logging.getLogger(__name__)


class Gateway:
    """ASGI middleware around all routes.

    Args:
        app: The application.
        key: See `authorize`.
        metrics: Where requests are counted.
        paths: The paths of the server, with the name of the model that each path belongs to; empty for none.
        public_paths: Paths that need no key.
        access_log: See `AccessLog`; empty for none.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str,
        metrics: Metrics,
        paths: Mapping[str, str],
        public_paths: Container[str],
        access_log: str = "",
    ) -> None:
        self.app, self.key, self.metrics, self.paths, self.public_paths = app, key, metrics, paths, public_paths
        self.access_log = AccessLog(access_log) if access_log else None
        self._running = {True: 0, False: 0}  # of public paths and others: the former must not keep the latter waiting

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

        is_public = scope["path"] in self.public_paths
        try:
            if not is_public:
                authorize(headers, self.key)
            if self._running[is_public] >= MAX_RUNNING and scope["path"] not in PROBES:
                raise HTTPException(
                    503, f"{MAX_RUNNING:,} requests are running: try again in a moment", {"Retry-After": "1"}
                )
            self._running[is_public] += 1
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                self._running[is_public] -= 1
        except HTTPException as error:
            await error_response(scope, error)(scope, receive, send_with_id)
        except Exception:
            logger.exception(f"request {scope['request_id']}: internal error")
            if status:
                raise  # the response is incomplete: uvicorn closes the connection
            hidden = HTTPException(500, f"internal error: see the log of the server, request {scope['request_id']}")
            await error_response(scope, hidden)(scope, receive, send_with_id)
        finally:
            status = status or 500  # canceled
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in self.paths else OTHER
            count, histogram = self.metrics.observe_request(path, status)
            count.inc()
            histogram.observe(seconds)
            if self.access_log:
                self.access_log.write(json.dumps(self._entry(scope, method, status, seconds)))

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


def authorize(headers: dict[bytes, bytes], key: str) -> None:
    """Raise HTTPException if a request lacks the key, or a web page of another origin sends it."""
    origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
    if origin and origin.partition("://")[2] != host:
        raise HTTPException(403, f"requests from web pages of other origins are refused: {origin[:100]}")
    if not key and not is_local(re.sub(r":\d*$", "", host).strip("[]")):
        # A foreign name that resolves to this machine (DNS rebinding).
        raise HTTPException(403, "without a key, the server is available only as localhost and 127.0.0.1")
    if not key:
        return
    scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(sent.strip(), key.encode()):
        raise HTTPException(401, "send the key in a header: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})


class AccessLog:
    """Append-only log, which may be renamed meanwhile.

    Args:
        path: The file; "-" for standard output.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fails = False

    def write(self, line: str) -> None:
        """Write a line; if that fails, warn once, since the response has been sent."""
        try:
            if self.path == "-":
                print(line, flush=True)
            else:
                with Path(self.path).open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
        except OSError as error:
            if not self._fails:
                logger.warning(f"the access log {self.path} is incomplete: {error}")
            self._fails = True
        else:
            self._fails = False
