"""PgBouncer of Debian, in transaction mode, before a server of the test."""

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.infrastructure.databases import LOGINS, PASSWORD
from tests.infrastructure.missing import find_program
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, listens, wait_until

START_SECONDS = 20
POOL_SIZE = 6  # server connections of each login; fewer than its sessions, so that they have to share them


class PgBouncer:
    """A pooler on a port of its own; it keeps its port after a restart.

    `folder`: a new one for its files, by default a temporary one.
    """

    def __init__(self, reaper: Reaper, postgres_port: int, folder: Path | None = None) -> None:
        program = find_program("pgbouncer")
        assert program is not None
        self._program = program
        self._reaper = reaper
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="order-platform-pgbouncer-"))
            reaper.folder(folder)
        else:
            folder.mkdir()
        folder.chmod(0o755)  # it may run as another user
        self._folder = folder
        self.port = free_port()
        users = folder / "users"
        users.write_text("".join(f'"{login}" "{PASSWORD}"\n' for login in (*LOGINS, "postgres")))
        self._configuration = folder / "pgbouncer.ini"
        self._configuration.write_text(f"""
[databases]
* = host=127.0.0.1 port={postgres_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = postgres
pool_mode = transaction
default_pool_size = {POOL_SIZE}
max_client_conn = 1000
""")
        self._user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def version(self) -> str:
        """Return its version."""
        said = subprocess.run([self._program, "--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"PgBouncer (\S+)", said)
        assert found is not None, said
        return found[1]

    @property
    def console(self) -> str:
        """Return the address of its own console."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/pgbouncer"

    def through(self, url: str) -> str:
        """Return the address of the same database through the pooler."""
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}"
        return parts._replace(netloc=place).geturl()

    def start(self) -> None:
        """Start it; return once it listens."""
        command = [self._program, str(self._configuration)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=self._user, stdout=log, stderr=log, start_new_session=True)
        self._reaper.process(self._process)
        wait_until(lambda: listens("127.0.0.1", self.port), START_SECONDS, "PgBouncer")

    def kill(self) -> None:
        """Kill it without notice."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def reconnect(self) -> None:
        """Have it replace each server connection when its transaction has ended."""
        with psycopg.connect(self.console, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            connection.execute("RECONNECT")
