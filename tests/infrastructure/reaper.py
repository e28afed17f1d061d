"""Ends the servers of a test run after any end of the run: done, interrupted, timed out or killed.

A separate process reads a pipe, to which the test run writes what it starts. When the pipe closes, because the run
closed it or has died, the process ends everything, the latest first. It needs no image, so it also replaces the Ryuk
container of testcontainers.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil

from tests.infrastructure.waiting import DeadlineError, wait_until

END_SECONDS = 20  # Kafka's orderly end takes up to 10 s; a process that lives longer is killed


class Child(Protocol):
    """A process of the test run, such as a subprocess.Popen."""

    pid: int

    def wait(self) -> int:
        """Return its exit status, once it has ended."""


class Reaper:
    """The test run's side: registers what to end."""

    def __init__(self) -> None:
        # Its own session: the Ctrl-C that ends the tests must not end the reaper.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.infrastructure.reaper"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
        self._children: list[Child] = []
        self._afterwards: list[Callable[[], object]] = []

    def _tell(self, kind: str, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([kind, what]).encode() + b"\n")
        self._process.stdin.flush()

    def process(self, process: Child, sign: signal.Signals = signal.SIGTERM) -> None:
        """Register a process to end with this signal; it is killed if it does not end."""
        self._tell("process", [process.pid, sign])
        self._children.append(process)

    def container(self, name: str) -> None:
        """Register a container to remove with its volumes, if it exists by then."""
        self._tell("container", name)

    def folder(self, path: Path) -> None:
        """Register a folder to remove with its content."""
        self._tell("folder", str(path))

    def users(self, path: Path) -> None:
        """Register a folder whose users are killed: processes that work in it or below it."""
        self._tell("users", str(path))

    def mount(self, path: Path) -> None:
        """Register a mounted folder to unmount, if it is mounted by then."""
        self._tell("mount", str(path))

    def afterwards(self, act: Callable[[], object]) -> None:
        """Have this called when everything has ended, unless the test run dies."""
        self._afterwards.append(act)

    def close(self) -> None:
        """End everything now, and return when it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for child in [*self._children, self._process]:
            child.wait()
        for act in self._afterwards:
            act()


def gone(process: psutil.Process) -> bool:
    """Return whether it has ended; it stays in the process table until its parent, the test run, waits for it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end_process(process: psutil.Process, sign: int) -> None:
    """Ask the process to end, and kill it after END_SECONDS."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(sign)
        try:
            wait_until(lambda: gone(process), END_SECONDS, f"the end of process {process.pid}")
        except DeadlineError:
            process.kill()


def kill_users(folder: Path) -> None:
    """Kill the processes that work in the folder or below it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                process.kill()


def remove_container(name: str) -> None:
    """Remove the container if it exists: it was registered before it was started."""
    # Imported late: most runs never need Docker.
    import docker.errors  # noqa: PLC0415
    from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415

    with suppress(docker.errors.NotFound):
        DockerClient().client.containers.get(name).remove(force=True, v=True)


def main() -> None:
    """Read until the pipe closes, then end everything that was registered, the latest first."""
    endings: list[Callable[[], object]] = []
    for line in sys.stdin:
        kind, what = json.loads(line)
        if kind == "process":
            # Looked up now, by pid and start time, so that a later process with the same pid is not ended.
            with suppress(psutil.NoSuchProcess):
                endings.append(partial(end_process, psutil.Process(what[0]), what[1]))
        elif kind == "container":
            endings.append(partial(remove_container, what))
        elif kind == "users":
            endings.append(partial(kill_users, Path(what)))
        elif kind == "mount":
            # Lazily: a killed process may still use it for an instant, and then it would stay mounted for good.
            command = ["umount", "--lazy", what]
            endings.append(partial(subprocess.run, command, check=False, stderr=subprocess.DEVNULL))
        elif kind == "folder":
            endings.append(partial(shutil.rmtree, what, ignore_errors=True))
    for end in reversed(endings):
        end()


if __name__ == "__main__":
    main()
