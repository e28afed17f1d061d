"""Write lines to a descriptor without ever raising or waiting: what can't be written at once is dropped and counted.

The reader of a log may be gone (EPIPE), its disk full (ENOSPC), or it may hang with a full pipe, where a plain write
waits for ever and the event loop with it. None of that may change what a service does.
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
# For bursts: the default of 64 KiB is some 300 lines, and a reader may be late by more. The most that Linux gives.
PIPE_BYTES = 1024 * 1024

# Writes some of the bytes and returns how many. Raises OSError, BlockingIOError where it would have to wait.
Write = Callable[[bytes], int]


class LineWriter:
    """Writes whole lines to a descriptor.

    The rest of a line that could be written in part comes before the next line, so none is glued to half of another.
    What comes while that rest can't be written is dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self._write = _writer(descriptor)
        self._rest = b""
        self._lock = threading.RLock()
        self._writing = False

    def write(self, line: str) -> None:
        """Write a line, given without its newline, or drop it."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._writing:  # a destructor that runs in the middle of a write, in this very thread, logs something
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
        # A description of our own: the flag on the one that we were given would hold for all who share it.
        path = f"/proc/self/fd/{descriptor}"
        return partial(os.write, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return _polled(descriptor)


def _send(descriptor: int, data: bytes) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as reader:
        return reader.send(data, socket.MSG_DONTWAIT)


def _polled(descriptor: int) -> Write:
    """Return what writes where the description may not be opened again, or the system can't do that."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        # POSIX: a pipe that polls writable takes as many bytes without waiting.
        return os.write(descriptor, data[: select.PIPE_BUF])

    return write


def _nowhere(_data: bytes) -> int:
    raise BrokenPipeError
