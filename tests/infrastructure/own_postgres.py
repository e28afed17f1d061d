"""A real Postgres server for one test, which may stop, pause and fill it."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.infrastructure.postgres import SETTINGS as POSTGRES_SETTINGS
from tests.infrastructure.postgres import answers, arguments, packaged_binaries, system_binaries, within_reach
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, wait_until

START_SECONDS = 60


class OwnPostgres:
    """A Postgres server for this test; its data is kept between starts.

    `folder`: where its data goes, by default a new temporary folder. `settings` come after the tests' usual ones.
    """

    def __init__(self, reaper: Reaper, folder: Path | None = None, settings: Sequence[str] = ()) -> None:
        self._reaper = reaper
        self._settings = [*POSTGRES_SETTINGS, *settings]
        self._folder = folder or Path(tempfile.mkdtemp(prefix="order-platform-faults-"))
        if folder is None:
            reaper.folder(self._folder)
        self._binaries = system_binaries() or packaged_binaries()
        self._user = None
        if os.geteuid() == 0:  # Postgres refuses to run as root
            self._user = "nobody"
            self._folder.chmod(0o755)
            if self._binaries == packaged_binaries():
                self._binaries = within_reach(self._binaries, self._folder)
        self._data = self._folder / "data"
        self._data.mkdir()
        if self._user:
            shutil.chown(self._data, self._user)
        self._run("initdb", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync")
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self._data), *arguments]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, capture_output=True)

    def start(self) -> None:
        """Start the server; after an immediate stop it recovers."""
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", "", *arguments(self._settings)]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command, user=self._user, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        self._reaper.process(self._server, signal.SIGQUIT)

    def wait(self) -> None:
        """Return once the server accepts connections."""
        wait_until(lambda: answers(self.url), START_SECONDS, "the own Postgres")

    def stop_immediately(self) -> None:
        """Stop the server like a crash, without notice to clients and without a checkpoint."""
        self.stop("immediate")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server in this mode of pg_ctl; `fast` ends all sessions."""
        self._run("pg_ctl", "stop", "-m", mode)
        assert self._server is not None
        self._server.wait()

    @property
    def runs(self) -> bool:
        """Return whether the server runs; without space for its log it ends."""
        return self._server is not None and self._server.poll() is None

    def program(self, name: str) -> str:
        """Return the path of one of the server's programs."""
        return str(self._binaries / name)
