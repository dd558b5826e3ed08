"""Reads HTTP connections, with limits on the head of a request: it is read before anything checks the key."""

import asyncio
import json
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 65_536  # of the request line and the headers
HEAD_SECONDS = 10.0  # within which a new connection, or one with a part of a head, must send all of it


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself keeps a head of any length, and waits for it forever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0  # received so far, of a head or of trailers
        self._is_in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._set_deadline()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._clear_deadline()

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            room = MAX_HEAD_BYTES - self._head_bytes
            self._head_bytes += len(data)
            super().data_received(data[:room])
            data = data[room:]
            if self._head_bytes > MAX_HEAD_BYTES and self._is_in_head:
                self._refuse(431, f"the URL and the headers are longer than {MAX_HEAD_BYTES:,} bytes")
        else:
            self._head_bytes += len(data)  # of trailers; a body sets it back
        if data and not self.transport.is_closing():
            super().data_received(data)
        if not self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()
        # Without a running request, a part of a head arrived, or of a body that was refused.
        if self._deadline is None and getattr(self.cycle, "response_complete", True):  # `cycle` is None at first
            self._set_deadline()

    @override
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._is_in_head, self._head_bytes = False, 0
        self._clear_deadline()

    @override
    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._head_bytes = 0

    @override
    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head, self._head_bytes = True, 0

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not valid HTTP")

    def _refuse(self, status: int, reason: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps({"error": reason}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _set_deadline(self) -> None:
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
