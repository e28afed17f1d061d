"""Child processes: each in a session of its own, so that Ctrl-C reaches the supervisor alone."""

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.configuration import ROOT

LAUNCH = Path(__file__).with_name("launch.py")
POLL_SECONDS = 0.05
KILL_SECONDS = 2.0  # SIGKILL acts at once; a process in an uninterruptible write needs until that ends


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user that a process runs as."""

    uid: int
    gid: int


class Child:
    """One running process and the file that takes what it prints."""

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
        """Start `command` in the checkout; `death_signal` is sent to it when this process dies."""
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
        """Send to the process; nothing happens when it is gone."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, number: signal.Signals, seconds: float) -> bool:
        """Ask the process to end, and kill it and its children after `seconds`. Return whether it ended by itself."""
        self.send(number)
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            kill_group(self.pid)
            await self._process.wait()
            return False
        return True


async def run(command: Sequence[str], log: Path, environment: Mapping[str, str], seconds: float) -> int | None:
    """Run a command that ends by itself and return its exit status; None when it took too long and was killed."""
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
    """Kill a process that leads its own group, with its children."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:  # macOS says so of a group of zombies
        pass


def started_at(pid: int) -> float | None:
    """When the process was started, in seconds since the epoch: with the pid it names a process for good."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def stop_stranger(pid: int, started: float, number: signal.Signals, seconds: float) -> bool:
    """Stop a process that isn't our child, if it is still the one that started then. Return whether it was there."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) > 1 or process.status() == psutil.STATUS_ZOMBIE:
            return False
    except psutil.NoSuchProcess:
        return False
    try:
        process.send_signal(number)
        process.resume()  # a paused one would not act on the signal
        try:
            process.wait(seconds)
        except psutil.TimeoutExpired:
            kill_group(pid)
            process.wait(KILL_SECONDS)
    except psutil.NoSuchProcess:
        pass
    return True


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes whose working directory is `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_gone(folder: Path, seconds: float) -> bool:
    """Wait until no process works in `folder`."""
    deadline = time.monotonic() + seconds
    while processes_in(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def last_lines(log: Path, count: int) -> list[str]:
    """The end of what a process printed."""
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            return [line.rstrip() for line in deque(lines, count)]
    except OSError:
        return []
