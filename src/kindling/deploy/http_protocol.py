"""HTTP connections, with limits on what clients may do without a key: on the heads of requests, and on not reading."""

import asyncio
import json
import re
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 65_536  # of the request line and the headers
HEAD_SECONDS = 10.0  # within which a new connection, or one with a part of a head, must send all of it
UNREAD_SECONDS = 30.0  # within which a client must read a part of a response
PART_BYTES = 65_536

END_OF_HEAD = re.compile(rb"\n\r?\n")
# Offers another protocol, as Java and `curl --http2` do; the parser would skip the body and the requests after it.
UPGRADE = re.compile(rb"\nupgrade:[^\n]*", re.IGNORECASE)
# The last bytes of a part of a head that may be the beginning of either.
UNDECIDED = re.compile(rb"\n(?:\r|u[^\n]*)?\Z", re.IGNORECASE)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits: by itself, it keeps a head of any length and waits for it forever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0  # received so far, of a head or of trailers
        self._is_in_head = True
        self._has_begun = False  # a head
        self._is_pipelined = False  # the head began in the same part as a body ended
        self._undecided = b""  # received, but not parsed yet
        self._deadline: asyncio.TimerHandle | None = None
        self._read_check: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._set_deadline()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._clear_deadline()
        self._clear_read_check()

    @override
    def data_received(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            data = self._parse_head(data) if self._is_in_head and not self._is_pipelined else self._parse(data)
        # Without a running request, a part of a head arrived, or of a body that was refused.
        if self._deadline is None and getattr(self.cycle, "response_complete", True):  # `cycle` is None at first
            self._set_deadline()

    def _parse_head(self, data: bytes) -> bytes:
        """Parse a head, or a part of one, without `Upgrade`, and return what follows it."""
        self._head_bytes -= len(self._undecided)
        data = self._undecided + data
        found = END_OF_HEAD.search(data)
        end = found.end() if found else len(data)
        undecided = None if found else UNDECIDED.search(data)
        parsed = undecided.start() if undecided else end
        self._undecided = data[parsed:end]
        self._head_bytes += end
        if self._is_short_enough():
            super().data_received(UPGRADE.sub(b"", data[:parsed]))
        return data[end:]

    def _parse(self, data: bytes) -> bytes:
        """Parse a part of a body, and what follows it, and return nothing."""
        self._head_bytes += len(data)  # of trailers or a pipelined head; a body sets it back
        super().data_received(data)
        self._is_pipelined = self._is_in_head and self._has_begun
        self._is_short_enough()
        return b""

    def _is_short_enough(self) -> bool:
        if self._head_bytes <= MAX_HEAD_BYTES:
            return True
        if self._is_in_head:
            self._refuse(431, f"the URL and the headers are longer than {MAX_HEAD_BYTES:,} bytes")
        self.transport.close()
        return False

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_begun = True

    @override
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._is_in_head, self._has_begun, self._head_bytes = False, False, 0
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
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._has_begun and self._deadline is None:  # a pipelined head
            self._set_deadline()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._check_reading_later()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._clear_read_check()

    def _check_reading_later(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._read_check = self.loop.call_later(UNREAD_SECONDS, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() > unread - PART_BYTES:
            self.transport.abort()  # `close` would wait for the client
        else:
            self._check_reading_later()

    def _clear_read_check(self) -> None:
        if self._read_check is not None:
            self._read_check.cancel()
            self._read_check = None

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
