"""Accepts connections without TLS, at the end also those that wait in the kernel's queue."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

# A uvloop listener accepts one connection per iteration of the loop, which takes milliseconds under overload. In a
# burst, clients would wait for seconds. So each socket has several listeners.
ACCEPTED_AT_ONCE = 16


class PlainListener:
    """Accepts connections from sockets that are bound; `connect` returns the protocol for a connection."""

    def __init__(self, connect: Callable[[], asyncio.Protocol]) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []

    async def listen(self, bound: Sequence[socket.socket], backlog: int) -> None:
        """Accept connections from copies of these sockets. Raises OSError."""
        self._sockets = [_copy(one) for one in bound]
        for one in self._sockets * ACCEPTED_AT_ONCE:
            self._servers.append(await self._loop.create_server(self._connect, sock=_copy(one), backlog=backlog))

    async def close(self) -> None:
        """Accept no more connections.

        The kernel has completed some before, and their clients may have sent requests: these are still accepted.
        """
        for server in self._servers:
            server.close()
        waiting = [client for one in self._sockets for client in _accept_all(one)]
        for client in waiting:
            await self._loop.connect_accepted_socket(self._connect, client)


def _copy(bound: socket.socket) -> socket.socket:
    copy = socket.socket(fileno=os.dup(bound.fileno()))
    copy.setblocking(False)
    return copy


def _accept_all(listening: socket.socket) -> list[socket.socket]:
    """Accept what waits, and close the socket."""
    accepted: list[socket.socket] = []
    with listening:
        while True:
            try:
                client, _address = listening.accept()
            except ConnectionAbortedError:
                continue
            except OSError:  # none waits, or the process has no descriptor for it
                return accepted
            client.setblocking(False)
            accepted.append(client)
