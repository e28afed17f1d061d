"""One `make run` on separate ports, with stand-ins for the services."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deploy.local.configuration import ROOT, SERVICES
from tests.infrastructure.waiting import free_ports, wait_until

START_SECONDS = 60
# With these, no server is embedded. The stand-ins never connect, so the servers need not exist.
ELSEWHERE = {f"{service.upper()}_DATABASE_URL": f"postgresql://{service}@127.0.0.1:1/db" for service in SERVICES}
ELSEWHERE["KAFKA_BOOTSTRAP_SERVERS"] = "127.0.0.1:2"
STOP_SECONDS = 10  # the promised limit


@dataclass
class LocalRun:
    """Starts the supervisor in `folder`; later runs in the same folder find what earlier ones left."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("tests.integration.deploy_local.run_stand_ins",)
    start_seconds: float = START_SECONDS
    stop_seconds: float = STOP_SECONDS
    python: str = sys.executable
    ports: dict[str, int] = field(init=False)
    admin_ports: dict[str, int] = field(init=False)
    console_port: int = field(init=False)
    playground_port: int = field(init=False)
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        order, relay, self.console_port, self.playground_port, *ports = free_ports(4 + len(SERVICES))
        self.admin_ports = {"order": order, "relay": relay}
        self.ports = dict(zip(SERVICES, ports, strict=True))

    @property
    def environment(self) -> dict[str, str]:
        own = {"LOCAL_DIR": str(self.folder), "PYTHONWARNINGS": "", "CONSOLE_PORT": str(self.console_port)}
        own["PLAYGROUND_PORT"] = str(self.playground_port)
        own |= {f"{service.upper()}_PORT": str(port) for service, port in self.ports.items()}
        own |= {f"{service.upper()}_ADMIN_PORT": str(port) for service, port in self.admin_ports.items()}
        clean = {name: value for name, value in os.environ.items() if not name.endswith("_DATABASE_URL")}
        clean.pop("KAFKA_BOOTSTRAP_SERVERS", None)
        return {**clean, **own, **self.settings}

    def begin(self) -> subprocess.Popen[str]:
        # A killed run leaves its run.json, which would be mistaken for the new run's.
        (self.folder / "run.json").unlink(missing_ok=True)
        with (self.folder.parent / "output").open("a") as output:
            self.process = subprocess.Popen(
                [self.python, "-m", *self.program],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return self.process

    def start(self) -> "LocalRun":
        """Start, and wait until everything is ready."""
        process = self.begin()
        wait_until(lambda: self.run_json() or process.poll() is not None, self.start_seconds, "run.json")
        assert process.poll() is None, self.output()
        return self

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signal the supervisor and return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(self.stop_seconds)

    def refused(self) -> tuple[int, str]:
        """Start a run that must fail; return the exit status and the output."""
        process = self.begin()
        status = process.wait(self.start_seconds)
        return status, self.output()

    def output(self) -> str:
        return (self.folder.parent / "output").read_text()

    def run_json(self) -> dict[str, Any]:
        try:
            run: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        except FileNotFoundError:
            return {}
        return run

    def pid(self, name: str) -> int:
        """Return the process of a service, the broker or Postgres."""
        records = json.loads((self.folder / "processes.json").read_text())["processes"]
        return next((int(record["pid"]) for record in records if record["name"] == name), 0)

    def command(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Run another command in this folder."""
        return subprocess.Popen(
            [self.python, "-m", module, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self, service: str) -> list[str]:
        """Return the subcommands with which the stand-in was started, in order."""
        return (self.folder / f"calls-{service}").read_text().splitlines()

    def left(self) -> list[psutil.Process]:
        """Return the processes of this run that still exist."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if not process.name().startswith(("python", "postgres")):
                return False
            ours = process.environ().get("LOCAL_DIR") == str(self.folder)
            return ours or process.cwd() == str(self.folder / "postgres")
        except psutil.Error:
            return False

    def kill_all(self) -> None:
        """Kill every process of this run immediately, and wait until none is left."""
        for process in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not self.left(), self.stop_seconds, "nothing left")
        if self.process is not None:
            self.process.wait(self.stop_seconds)

    def clean_up(self) -> None:
        """Kill the remaining processes, after any end of the test."""
        self.kill_all()
