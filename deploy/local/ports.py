"""Finds free TCP ports of this machine."""

import errno
import socket
from collections.abc import Collection


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now. Raises OSError if the host isn't this machine's."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a previous server's connections in TIME_WAIT don't make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def choose_again(wanted: int | None, remembered: int | None, usual: int, besides: Collection[int] = ()) -> int:
    """Return the port that is set; or else the last run's or the usual one, if it is free, or any other."""
    return wanted or choose([remembered or usual, usual], besides)


def choose(candidates: list[int], besides: Collection[int] = ()) -> int:
    """Return the first candidate that is free on the loopback address, or else any free port; none of `besides`."""
    for port in candidates:
        if port not in besides and is_free("127.0.0.1", port):
            return port
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in besides:
            return port


def accepts(port: int) -> bool:
    """Return whether a server on the loopback address accepts connections there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
