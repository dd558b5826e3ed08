"""Notices which process of a run has ended, if torchrun, Slurm or another program has started the processes."""

import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from platform import node
from selectors import EVENT_READ, DefaultSelector
from typing import NamedTuple

from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store

from kindling.utils.text import program_name

GRACE_SECONDS = 5.0  # time that a process has to notice that another one has failed
KEY = "kindling/peers"
CONNECT_SECONDS = 3.0
MAX_GREETING = 500  # bytes of the first line of a connection
# A machine that loses its power or its network is noticed after 4 + 3 * 4 s; a killed process at once.
KEEPALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 4, "TCP_KEEPCNT": 3}


class PeerError(ConnectionError):
    """Another process of a distributed run has failed."""


class Peer(NamedTuple):
    """A process of the run, with its rank, and its PID and machine as text."""

    rank: int
    place: str


class Peers:
    """Connections between the first process and all others, which the kernel closes if a process is killed.

    They carry lines: `done` from a process that ends as planned, `error` or `interrupted` from one that reports why it
    ends, and `lost RANK PLACE` from the first process to the others.

    Attributes:
        on_end: Called in a thread as soon as another process has ended early.
        ended: The word of the first process that has ended early: error, interrupted or lost; empty if none has.
        lost: The process that has ended without a word; None if there is none.
        rank: Rank of this process.
    """

    on_end: Callable[[], None]
    ended = ""
    lost: Peer | None = None
    rank, _size = 0, 1  # until the processes are connected
    _has_reported = False

    def __init__(self) -> None:
        self._has_ended = threading.Event()
        self._selector = DefaultSelector()
        self._sockets: dict[socket.socket, Peer] = {}
        self._joined, self._connected = 0, threading.Event()
        self._silent: set[int] = set()  # ranks that are done
        threading.Thread(target=self._watch, daemon=True).start()

    def report_lost(self) -> str:
        """Print one line about the lost process, in the first one that is left, at once: torchrun ends it soon.

        Returns the line; empty in all other processes, and if it was printed before.
        """
        if self.lost is None or self._has_reported or self.rank != int(self.lost.rank == 0):
            return ""
        self._has_reported = True
        line = f"process {self.lost.rank + 1} of {self._size} was killed or has crashed ({self.lost.place})"
        print(f"{program_name()}: error: {line}", file=sys.stderr, flush=True)
        return line

    def wait(self, seconds: float) -> None:
        """Wait until another process has ended early, but not longer than some seconds."""
        self._has_ended.wait(seconds)

    def leave(self, word: str) -> None:
        """Tell the others that this process ends, and why: `done`, `error` or `interrupted`."""
        if word != "done" and distributed.is_initialized():
            self._connected.wait(CONNECT_SECONDS)  # an error may occur while the processes connect
        self._send(word)

    def _send(self, line: str) -> None:
        for connection in [*self._sockets]:
            with suppress(OSError):
                connection.sendall(f"{line}\n".encode())

    def _watch(self) -> None:
        while not distributed.is_initialized():
            time.sleep(0.01)
        self.rank, self._size = distributed.get_rank(), distributed.get_world_size()
        with suppress(OSError, RuntimeError):  # without these connections, messages name no process
            listener = None
            if self.rank == 0:
                listener = self._listen()
            else:
                self._connect()
            while self._sockets or listener:
                for key, _ in self._selector.select():
                    if key.fileobj is listener:
                        self._accept(listener)
                    else:
                        self._read(key.fileobj)  # type: ignore[arg-type]

    def _listen(self) -> socket.socket:
        """Listen at the address of the first process, and publish the port in the run's store."""
        store, self._token = _get_default_store(), secrets.token_hex(8)
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        try:
            listener = socket.create_server((address, 0))
        except OSError:
            store.set(KEY, "")
            raise
        self._selector.register(listener, EVENT_READ)
        store.set(KEY, f"{self._token} {listener.getsockname()[1]} {_place()}")
        return listener

    def _connect(self) -> None:
        store = _get_default_store()
        while not store.check([KEY]):  # `get` would block other uses of the store
            time.sleep(0.01)
        token, port, place = store.get(KEY).decode().split(" ", 2) if store.get(KEY) else ("", "0", "")
        connection = socket.create_connection((os.environ.get("MASTER_ADDR", "127.0.0.1"), int(port)), timeout=30)
        connection.sendall(f"{token} {self.rank} {_place()}\n".encode())
        self._add(connection, Peer(0, place))

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(5)
        with suppress(OSError, ValueError):
            token, rank, place = connection.makefile("rb", buffering=0).readline(MAX_GREETING).decode().split(" ", 2)
            if secrets.compare_digest(token, self._token):
                self._add(connection, Peer(int(rank), place.strip()))
                return
        connection.close()

    def _add(self, connection: socket.socket, peer: Peer) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets[connection] = peer
        self._selector.register(connection, EVENT_READ)
        self._joined += 1
        if self.rank or self._joined == self._size - 1:
            self._connected.set()
        if self.ended:  # before this process has joined
            self._send(self._line)

    def _read(self, connection: socket.socket) -> None:
        peer, lines = self._sockets[connection], b""
        with suppress(OSError):
            lines = connection.recv(1024)
        for line in lines.decode().splitlines():
            word, _, rest = line.partition(" ")
            if word == "lost":
                rank, _, place = rest.partition(" ")
                self._end(word, Peer(int(rank), place))
            elif word != "done":
                self._end(word)
            self._silent.add(peer.rank)
        if not lines:
            self._selector.unregister(connection)
            del self._sockets[connection]
            if peer.rank not in self._silent:
                self._end("lost", peer)

    def _end(self, word: str, lost: Peer | None = None) -> None:
        if self.ended:
            return
        self.lost, self.ended = lost, word
        self._line = f"lost {lost.rank} {lost.place}" if lost else word
        self._send(self._line)
        self._has_ended.set()
        threading.Thread(target=self.on_end, daemon=True).start()


def report_as_one(peers: Peers | None, error: BaseException) -> None:
    """Raise another error than that of this process if another process has been lost, or reports why this one ends.

    Raises:
        PeerError: In the first process that is left, if one has been lost.
        SystemExit: If another process reports an error.
    """
    if peers is None or (isinstance(error, SystemExit) and not error.code):
        return
    word = "error" if isinstance(error, Exception) else "interrupted"
    is_own = not isinstance(error, PeerError) and not is_lost_connection(error)
    if is_own:
        peers.leave(word)
    peers.wait(1.0 if is_own else GRACE_SECONDS)
    if line := peers.report_lost():
        raise PeerError(line) from error  # for run.json
    theirs = peers.ended
    is_same = theirs == word and peers.rank > 0
    if theirs == "lost" or (theirs and (not is_own or is_same or (word, theirs) == ("interrupted", "error"))):
        raise SystemExit(1) from error


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error means that another process does not respond."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and re.search(r"\bgloo\b|\bnccl", str(error)) is not None
    )


def _place() -> str:
    return f"PID {os.getpid()} on {node()}"
