"""One service as a process, which a test may pause, kill and start again; and the identities of jwt mode."""

import asyncio
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from tests.infrastructure import forks
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60


class Security(Protocol):
    """The identities of services and customers in jwt mode."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Return the context of a customer; None if the services have no certificates."""

    @property
    def operator(self) -> Mapping[str, str]:
        """Return the settings with which the order service, and its command line, call the participants."""

    def session(self, url: str, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        """Return a customer's session, whose requests pass these middlewares."""


async def command_ended(
    program: str, *arguments: str, environment: Mapping[str, str], reaper: Reaper, forked: bool
) -> None:
    """Run a command of a program to its end, which must be a good one. `forked`: whether it may start as a fork."""
    if forked:
        ended = await asyncio.to_thread(forks.run, program, *arguments, environment=environment, reaper=reaper)
        assert ended.returncode == 0, ended.stderr
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program, *arguments), env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    assert await process.wait() == 0


@dataclass
class Process:
    """One service's process; it keeps its port after a restart. With `tls`, it serves probes at `internal_port`.

    With `forked`, a start that no measurement includes takes less time (tests/infrastructure/forks.py).
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    port: int
    log: Path
    reaper: Reaper
    source: Path = REPOSITORY  # of which version
    running: forks.Running | None = None
    paused: bool = False
    internal_port: int | None = None
    tls: ssl.SSLContext | None = None
    forked: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def internal_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.internal_port or self.port}"

    @property
    def service(self) -> str:
        return self.name.partition("-")[0]

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.running is not None and self.running.poll() is None:
            return
        with self.log.open("ab") as log:
            *how, program = self.command
            if self.forked and (how, self.source) == ([sys.executable, "-m"], REPOSITORY):
                self.running = forks.start(program, environment=self.environment, reaper=self.reaper, output=log)
                return
            self.running = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                cwd=self.source,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.reaper.process(self.running)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.running is not None
        self.running.send_signal(number)

    async def ended(self, seconds: float = 15) -> int:
        """Wait until the process ends; return its exit status."""
        running = self.running
        assert running is not None

        async def is_over() -> bool:
            return running.poll() is not None

        await eventually(is_over, seconds, f"the end of {self.name}")
        return running.wait()

    async def ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until the service reports that it is ready."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:

            async def is_ready() -> bool:
                assert self.running is not None
                assert self.running.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
                try:
                    async with session.get(f"{self.internal_url}/readyz", ssl=self.tls or True) as response:
                        return response.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    return False

            await eventually(is_ready, seconds, f"{self.name} ready")
