"""Imports a program's modules once, and forks for each start of the program; `forks.py` asks for that."""

import gc
import importlib
import json
import os
import runpy
import selectors
import socket
import sys
from contextlib import suppress

REQUEST_MAX = 1 << 18
FIRST_OTHER = 3  # standard input, output and error are the first descriptors


def serve(program: str, control: socket.socket) -> list[str] | None:
    """Fork at each request, until the test run closes its end. Return the arguments in a fork, None at the end."""
    importlib.import_module(f"{program}.__main__")
    del sys.modules[f"{program}.__main__"]  # each fork runs it itself
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lack the other threads"
    gc.collect()
    gc.freeze()  # a fork's collections skip what is loaded here
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:
                selector.unregister(key.fileobj)
                _report(key.fd, *key.data)
                continue
            message, files, _, _ = socket.recv_fds(control, REQUEST_MAX, FIRST_OTHER)
            if not message:
                return None
            request, (*streams, ends) = json.loads(message), files
            pid = os.fork()
            if pid == 0:
                selector.close()
                control.close()
                _become(request["environment"], streams)
                return list(request["arguments"])
            for stream in streams:
                os.close(stream)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, ends))
            control.send(str(pid).encode())


def _report(descriptor: int, pid: int, ends: int) -> None:
    """Tell the test run how a fork has ended."""
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(ends, str(os.waitstatus_to_exitcode(status)).encode())
    os.close(ends)
    os.close(descriptor)


def _become(environment: dict[str, str], streams: list[int]) -> None:
    """Take over what a new process would get from its parent."""
    os.setsid()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
    os.closerange(FIRST_OTHER, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    _, own, number = sys.argv
    given = serve(own, socket.socket(fileno=int(number)))
    if given is not None:
        sys.argv[1:] = given
        runpy._run_module_as_main(own)  # type: ignore[attr-defined] # what `python -m` does
