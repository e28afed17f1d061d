"""Starts the product's programs as forks of a process that has imported their modules.

A start of `python -m services.relay` takes more than a second of processor time, nearly all of it for imports. A fork
takes a few hundredths of a second. Beyond that it is a process like any other: it runs the program's `__main__` with
an environment, arguments, output and session of its own, and a test may pause and kill it.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol
from weakref import WeakKeyDictionary

from tests.infrastructure.reaper import Reaper

REPOSITORY = Path(__file__).parents[2]
ANSWER_MAX = 32
RUN_SECONDS = 60


class Running(Protocol):
    """What tests use of a process; subprocess.Popen has all of it."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """Return the exit status, if the process is known to have ended; minus the signal that ended it."""

    def poll(self) -> int | None:
        """Return the exit status, if the process has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, once the process has ended. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""


class Fork:
    """A program's process; it is a child of the process that forked it, which reports its end."""

    def __init__(self, program: str, pid: int, ends: int) -> None:
        self._program = program
        self.pid = pid
        self.returncode: int | None = None
        self._ends = ends
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status, if the process has ended."""
        with self._lock:
            if self.returncode is None:
                with suppress(BlockingIOError):
                    self.returncode = int(os.read(self._ends, ANSWER_MAX))
                    os.close(self._ends)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, once the process has ended. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self._program, timeout or 0)
            waiting = select.poll()
            waiting.register(self._ends, select.POLLIN)
            waiting.poll(None if left is None else left * 1000)
        return status

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        self.send_signal(signal.SIGTERM)


class _Server:
    """The process that forks for one program; threads may ask it at the same time."""

    def __init__(self, program: str, environment: Mapping[str, str]) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.infrastructure.fork_server", program, str(theirs.fileno())],
                cwd=REPOSITORY,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # the Ctrl-C that ends the tests must not end it before its forks
            )

    def close(self) -> None:
        """End it, when its forks have ended. It also ends when the test run does."""
        self._control.close()
        self._process.wait()

    def fork(self, arguments: tuple[str, ...], environment: Mapping[str, str], out: int, err: int) -> Fork:
        ends, theirs = os.pipe()
        os.set_blocking(ends, False)
        request = {"arguments": arguments, "environment": dict(environment)}
        with self._lock:  # an answer does not say to which request it belongs
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], [out, err, theirs])
            finally:
                os.close(theirs)
            answer = self._control.recv(ANSWER_MAX)
        assert answer, f"the process that forks for {self._program} has ended"
        return Fork(self._program, int(answer), ends)


_servers: WeakKeyDictionary[Reaper, dict[tuple[object, ...], _Server]] = WeakKeyDictionary()
_servers_lock = threading.Lock()


def start(
    program: str,
    *arguments: str,
    environment: Mapping[str, str],
    reaper: Reaper,
    output: IO[bytes] | None = None,
    errors: IO[bytes] | None = None,
    sign: signal.Signals = signal.SIGTERM,
) -> Fork:
    """Start `python -m program`. `output` and `errors`: where they go, by default to the tests', and both to `output`.

    The reaper ends it with the signal `sign`.
    """
    # Python reads these once, when it starts.
    own = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    key = (program, *sorted(own.items()))
    with _servers_lock:
        servers = _servers.setdefault(reaper, {})
        if key not in servers:
            others = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            servers[key] = _Server(program, others | own)
            reaper.afterwards(servers[key].close)
        server = servers[key]
    errors = errors or output
    streams = 1 if output is None else output.fileno(), 2 if errors is None else errors.fileno()
    process = server.fork(arguments, environment, *streams)
    reaper.process(process, sign)
    return process


def run(
    program: str, *arguments: str, environment: Mapping[str, str], reaper: Reaper
) -> subprocess.CompletedProcess[str]:
    """Run `python -m program` to its end, which must come soon."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = start(program, *arguments, environment=environment, reaper=reaper, output=output, errors=errors)
        status = process.wait(RUN_SECONDS)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(
            [program, *arguments], status, output.read().decode(), errors.read().decode()
        )
