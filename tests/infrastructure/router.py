"""HAProxy before two cells and two product shards, with the files of deploy/cells and other addresses."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.infrastructure.missing import cannot_run, find_program
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port

FILES = Path(__file__).parents[2] / "deploy" / "cells"
START_SECONDS = 10
STOP_SECONDS = 10
READY = b"READY=1"
BACKEND = re.compile(r"^backend (\S+)$")
SERVER = re.compile(r"^(  server \w+-1) \S+ check port \d+$")
FURTHER = re.compile(r"^  server \w+-2 ")
CHOSEN_SLOT, CHOSEN_CELL = "x-chosen-slot", "x-chosen-cell"
# Each answer says what was chosen: a cell or a product shard.
CHOSEN = f"""  http-response set-header {CHOSEN_SLOT} %[var(txn.slot)]
  http-response set-header {CHOSEN_CELL} %[var(txn.cell)]%[var(txn.shard)]"""


@dataclass(frozen=True, slots=True)
class Router:
    """A running HAProxy. `url` is for clients."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    notifications: socket.socket

    @property
    def log(self) -> str:
        """Return its output so far."""
        return (self.folder / "log").read_text()

    def replace_map(self, text: str) -> None:
        """Write another map, and let HAProxy read its files again, as `systemctl reload haproxy` does."""
        (self.folder / "cells.map").write_text(text)
        self.process.send_signal(signal.SIGUSR2)
        self.until_ready()

    def until_ready(self) -> None:
        """Wait until HAProxy says that it has read its files. Before that, it ignores signals."""
        while READY not in (said := self.notifications.recv(4096)):
            assert said, self.log


@contextmanager
def router(
    ports: Mapping[str, tuple[int, int]], reaper: Reaper, *, since_milliseconds: int | None = None
) -> Iterator[Router]:
    """Run HAProxy before these services.

    `ports`: for each backend, the port for clients and the one that is checked. `since_milliseconds`: when ids began to
    contain a slot, if it is not as in the file.
    """
    program = find_program("haproxy") or cannot_run("no HAProxy here (Debian, Ubuntu: apt-get install haproxy)")
    folder = Path(tempfile.mkdtemp(prefix="order-platform-router-"))
    reaper.folder(folder)
    for name in ("cells.map", "products.map", "subject.lua"):
        shutil.copy(FILES / name, folder)
    port = free_port()
    text = configuration(ports, port).replace("/etc/haproxy/", f"{folder}/")
    if since_milliseconds is not None:
        text, count = re.subn(r" -m int lt \d+$", f" -m int lt {since_milliseconds}", text, flags=re.M)
        assert count == 1
    (folder / "haproxy.cfg").write_text(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        # As systemd does.
        notifications.bind(str(folder / "notify"))
        notifications.settimeout(START_SECONDS)
        environment = os.environ | {"NOTIFY_SOCKET": str(folder / "notify")}
        command = [program, "-Ws", "-db", "-f", str(folder / "haproxy.cfg")]
        with (folder / "log").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=environment)
        reaper.process(process)
        running = Router(f"http://127.0.0.1:{port}", folder, process, notifications)
        running.until_ready()
        try:
            yield running
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def configuration(ports: Mapping[str, tuple[int, int]], port: int) -> str:
    """Return the configuration with other addresses, and with one replica of each service."""
    lines, backend = [], ""
    for line in (FILES / "haproxy.cfg").read_text().splitlines():
        if named := BACKEND.match(line):
            backend = named[1]
        if FURTHER.match(line):
            continue
        if server := SERVER.match(line):
            clients, checked = ports[backend]
            line = f"{server[1]} 127.0.0.1:{clients} check port {checked}"  # noqa: PLW2901
        lines.append(line)
    text = "\n".join(lines) + "\n"
    text, count = re.subn(r"^  bind :8080$", f"  bind 127.0.0.1:{port}\n{CHOSEN}", text, flags=re.M)
    assert count == 1
    return text
