"""Writes lines to a descriptor and never raises or waits: it drops and counts lines that can't be written now.

The reader of a log may have ended (EPIPE), its disk may be full (ENOSPC), or it may hang with a full pipe. A plain
write to a full pipe would block the event loop for ever. A service must continue in all these cases.
"""

import fcntl
import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from prometheus_client import Counter

LOST = Counter("log_lines_lost_total", "Log lines that could not be written")
# For bursts: the default of 64 KiB holds about 300 lines, too few for a slow reader. It is the most that Linux allows.
PIPE_BYTES = 1024 * 1024

# Writes some of the bytes and returns their number. Raises OSError; BlockingIOError if the write would block.
Write = Callable[[bytes], int]


class LineWriter:
    """Writes whole lines to a descriptor.

    If only a part of a line could be written, its rest is written before the next line. Lines that arrive before that
    are dropped. So no line is joined to half of another.
    """

    def __init__(self, descriptor: int) -> None:
        self._write = _writer(descriptor)
        self._rest = b""
        self._lock = threading.RLock()
        self._writing = False

    def write(self, line: str) -> None:
        """Write a line or drop it; `line` has no newline."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._writing:  # a destructor logs something in this thread, during a write
                LOST.inc()
                return
            self._writing = True
            try:
                if self._rest:
                    self._rest = self._push(self._rest)
                rest = data if self._rest else self._push(data)
                if len(rest) == len(data):
                    LOST.inc()
                else:
                    self._rest = rest
            finally:
                self._writing = False

    def _push(self, data: bytes) -> bytes:
        """Write what can be written now, and return the rest."""
        with suppress(OSError):
            while data:
                data = data[self._write(data) :]
        return data


def _writer(descriptor: int) -> Write:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # it was closed before this process started
        return _nowhere
    if stat.S_ISREG(mode):
        return partial(os.write, descriptor)
    if stat.S_ISSOCK(mode):
        return partial(_send, descriptor)
    if stat.S_ISFIFO(mode):
        with suppress(OSError, AttributeError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        # A new open file description: O_NONBLOCK on the inherited one would apply to all processes that share it.
        path = f"/proc/self/fd/{descriptor}"
        return partial(os.write, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return _polled(descriptor)


def _send(descriptor: int, data: bytes) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as reader:
        return reader.send(data, socket.MSG_DONTWAIT)


def _polled(descriptor: int) -> Write:
    """Return a function that writes to a descriptor that can't be opened again."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        # POSIX: a pipe that is reported as writable takes this many bytes without blocking.
        return os.write(descriptor, data[: select.PIPE_BUF])

    return write


def _nowhere(_data: bytes) -> int:
    raise BrokenPipeError
