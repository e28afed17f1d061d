"""Accepts TLS connections, and counts each of them from then on.

The event loops' own servers report a connection only after its handshake, and a failed handshake never. Before that, a
connection could be neither counted nor closed.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import structlog

from shared.http.connection import REJECTED, ConnectionLimit, Handshake

log = structlog.get_logger()

# How long a client may take for the handshake.
HANDSHAKE_SECONDS = 3.0
# The same for those that are in their handshake when the service stops.
LAST_HANDSHAKES_SECONDS = 1.0
# Connections that are accepted before the event loop handles those that are open.
ACCEPTED_AT_ONCE = 16
# The pause after the system had no descriptor or memory for a connection.
RETRY_SECONDS = 1.0


class TlsListener:
    """Accepts connections from sockets that are bound.

    `connect` returns the protocol for a connection after its handshake. The protocol counts the connection in `limit`
    while it is open, and ends the counting of the handshake. `shutdown_seconds`: how long a client may take to receive
    the last answer and to confirm the end of TLS.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        limit: ConnectionLimit,
        connect: Callable[[Handshake], asyncio.Protocol],
        shutdown_seconds: float,
    ) -> None:
        self._context = context
        self._limit = limit
        self._connect = connect
        self._shutdown_seconds = shutdown_seconds
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    async def listen(self, bound: Sequence[socket.socket], backlog: int) -> None:
        """Accept connections from copies of these sockets. Raises OSError."""
        for one in bound:
            copy = socket.socket(fileno=os.dup(one.fileno()))
            self._sockets.append(copy)
            copy.setblocking(False)
            copy.listen(backlog)
            self._loop.add_reader(copy, self._accept, copy)

    async def close(self) -> None:
        """Accept no more connections, and close those whose handshake takes long.

        Clients send their first request with the end of the handshake, so those that waited to be accepted get theirs.
        """
        listening, self._sockets = self._sockets, []
        for one in listening:
            self._loop.remove_reader(one)
            while self._accept_one(one):
                pass
            one.close()
        if self._handshakes:
            await asyncio.wait(self._handshakes, timeout=LAST_HANDSHAKES_SECONDS)
        for task in self._handshakes:
            task.cancel()
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if not self._accept_one(listening):
                return

    def _accept_one(self, listening: socket.socket) -> bool:
        """Accept a connection; return whether there was one."""
        try:
            accepted, _address = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:  # it would be reported in each iteration of the loop
            log.warning("connection.not_accepted", error=repr(error))
            self._loop.remove_reader(listening)
            self._loop.call_later(RETRY_SECONDS, self._resume, listening)
            return False
        if self._limit.full:
            REJECTED.inc()
            accepted.close()  # an answer could be written only after a handshake
            return True
        accepted.setblocking(False)
        task = self._loop.create_task(self._shake_hands(accepted, Handshake(self._limit)))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)
        return True

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _shake_hands(self, accepted: socket.socket, handshake: Handshake) -> None:
        try:
            with suppress(OSError):  # it failed, took too long, or its client closed the connection
                await self._loop.connect_accepted_socket(
                    partial(self._connect, handshake),
                    accepted,
                    ssl=self._context,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=self._shutdown_seconds,
                )
        finally:
            handshake.end()
