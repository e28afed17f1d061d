"""Child processes. Each has its own session, so that Ctrl-C reaches only the supervisor."""

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.configuration import ROOT

LAUNCH = Path(__file__).with_name("launch.py")
POLL_SECONDS = 0.05
KILL_SECONDS = 2.0  # SIGKILL acts immediately, except during an uninterruptible write


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user that a process runs as."""

    uid: int
    gid: int


class Child:
    """One running process, and the file with its output."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.pid = process.pid
        self.log = log

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
        account: Account | None = None,
    ) -> "Child":
        """Start `command` in the checkout; the kernel sends it `death_signal` when this process dies."""
        who = ("-", "-") if account is None else (str(account.uid), str(account.gid))
        shim = (sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(death_signal)), *who)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            process = await asyncio.create_subprocess_exec(
                *shim,
                *command,
                cwd=ROOT,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
        return cls(process, log)

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, number: signal.Signals, seconds: float) -> bool:
        """Ask the process to end; kill it and its children after `seconds`. Return whether it ended by itself."""
        self.send(number)
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            kill_group(self.pid)
            await self._process.wait()
            return False
        return True


async def run(command: Sequence[str], log: Path, environment: Mapping[str, str], seconds: float) -> int | None:
    """Run a command and return its exit status; None if it took too long and was killed."""
    child = await Child.start(command, log, environment)
    try:
        return await asyncio.wait_for(child.wait(), seconds)
    except TimeoutError:
        return None
    finally:
        if child.returncode is None:
            kill_group(child.pid)
            await child.wait()


def kill_group(leader: int) -> None:
    """Kill a process group: its leader and the leader's children."""
    with suppress(ProcessLookupError, PermissionError):  # macOS raises the second for a group of zombies
        os.killpg(leader, signal.SIGKILL)


def started_at(pid: int) -> float | None:
    """Return the process' start time in seconds since the epoch; together with the pid it identifies a process."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def stop_process_of_earlier_run(pid: int, started: float, number: signal.Signals, seconds: float) -> bool:
    """Stop a process that isn't our child, if its start time matches. Return whether it existed."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) > 1 or process.status() == psutil.STATUS_ZOMBIE:
            return False
    except psutil.NoSuchProcess:
        return False
    try:
        process.send_signal(number)
        process.resume()  # a paused process would not handle the signal
        try:
            process.wait(seconds)
        except psutil.TimeoutExpired:
            kill_group(pid)
            process.wait(KILL_SECONDS)
    except psutil.NoSuchProcess:
        pass
    return True


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return the processes whose working directory is `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_gone(folder: Path, seconds: float) -> bool:
    """Wait until `folder` is no process' working directory."""
    deadline = time.monotonic() + seconds
    while processes_in(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a process' output."""
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            return [line.rstrip() for line in deque(lines, count)]
    except OSError:
        return []
