"""HAProxy before two cells and two product shards, with the files of deploy/cells and other addresses."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.infrastructure.missing import cannot_run, find_program
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port

FILES = Path(__file__).parents[2] / "deploy" / "cells"
START_SECONDS = 10
STOP_SECONDS = 10
READY = b"READY=1"
BACKEND = re.compile(r"^backend (\S+)$")
SERVER = re.compile(r"^(  server \w+-(\d+)) \S+ check port \d+$")
CHOSEN_SLOT, CHOSEN_CELL = "x-chosen-slot", "x-chosen-cell"
# Each answer says what was chosen: a cell or a product shard.
CHOSEN = f"""  http-response set-header {CHOSEN_SLOT} %[var(txn.slot)]
  http-response set-header {CHOSEN_CELL} %[var(txn.cell)]%[var(txn.shard)]"""


# Of each backend, its servers: the port for clients and the one that is checked.
Servers = Mapping[str, Sequence[tuple[int, int]]]


class Router:
    """HAProxy with the files in a folder. `url` is for clients, `process` the running one."""

    process: subprocess.Popen[bytes]

    def __init__(self, url: str, folder: Path, notifications: socket.socket, reaper: Reaper) -> None:
        self.url, self.folder = url, folder
        self._notifications, self._reaper = notifications, reaper
        self._program = find_program("haproxy") or cannot_run("no HAProxy here (Debian: apt-get install haproxy)")

    def start(self) -> None:
        """Start it as systemd does; return when it has read its files."""
        environment = os.environ | {"NOTIFY_SOCKET": str(self.folder / "notify")}
        command = [self._program, "-Ws", "-db", "-f", str(self.folder / "haproxy.cfg")]
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, env=environment
            )
        self._reaper.process(self.process)
        self.until_ready()

    def kill(self) -> None:
        """Kill it without notice, with all its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

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
        while READY not in (said := self._notifications.recv(4096)):
            assert said, self.log


@contextmanager
def router(
    ports: Servers, reaper: Reaper, *, since_milliseconds: int | None = None, says_what: bool = True
) -> Iterator[Router]:
    """Run HAProxy before these services.

    `since_milliseconds`: when ids began to contain a slot, if it is not as in the file. `says_what`: whether each
    answer says what was chosen, which costs some CPU.
    """
    folder = Path(tempfile.mkdtemp(prefix="order-platform-router-"))
    reaper.folder(folder)
    for name in ("cells.map", "products.map", "subject.lua"):
        shutil.copy(FILES / name, folder)
    port = free_port()
    text = configuration(ports, port, CHOSEN if says_what else "").replace("/etc/haproxy/", f"{folder}/")
    if since_milliseconds is not None:
        text, count = re.subn(r" -m int lt \d+$", f" -m int lt {since_milliseconds}", text, flags=re.M)
        assert count == 1
    (folder / "haproxy.cfg").write_text(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(folder / "notify"))
        notifications.settimeout(START_SECONDS)
        running = Router(f"http://127.0.0.1:{port}", folder, notifications, reaper)
        running.start()
        try:
            yield running
        finally:
            running.process.terminate()
            running.process.wait(STOP_SECONDS)


def configuration(ports: Servers, port: int, more: str) -> str:
    """Return the configuration with other addresses, and with as many replicas as each backend has here.

    `more`: further lines for clients.
    """
    lines, backend = [], ""
    for line in (FILES / "haproxy.cfg").read_text().splitlines():
        if named := BACKEND.match(line):
            backend = named[1]
        if server := SERVER.match(line):
            number = int(server[2])
            if number > len(ports[backend]):
                continue
            clients, checked = ports[backend][number - 1]
            line = f"{server[1]} 127.0.0.1:{clients} check port {checked}"  # noqa: PLW2901
        lines.append(line)
    text = "\n".join(lines) + "\n"
    text, count = re.subn(r"^  bind :8080$", f"  bind 127.0.0.1:{port}\n{more}", text, flags=re.M)
    assert count == 1
    return text
