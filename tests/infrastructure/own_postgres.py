"""A real Postgres server for one test, which may stop, pause and fill it."""

import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.infrastructure.postgres import INITDB, Place, answers, packaged_binaries, system_binaries
from tests.infrastructure.postgres import SETTINGS as POSTGRES_SETTINGS
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, wait_until

START_SECONDS = 60


class OwnPostgres:
    """A Postgres server for this test; its data is kept between starts.

    `folder`: where its data goes, by default a new temporary folder. `settings` come after the tests' usual ones.
    `copy_of`: a superuser's address of a server that it copies, and then follows as a standby.
    """

    def __init__(
        self, reaper: Reaper, folder: Path | None = None, settings: Sequence[str] = (), copy_of: str | None = None
    ) -> None:
        self._reaper = reaper
        self._settings = [*POSTGRES_SETTINGS, *settings]
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="order-platform-faults-"))
            reaper.folder(folder)
        self._place = Place(system_binaries() or packaged_binaries(), folder)
        if copy_of is None:
            self._place.run("initdb", *INITDB)
        else:
            self._place.run("pg_basebackup", "--dbname", copy_of, "--checkpoint=fast", "--write-recovery-conf")
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; after an immediate stop it recovers."""
        self._server = self._place.start(self.port, self._settings)
        self._reaper.process(self._server, signal.SIGQUIT)

    def wait(self) -> None:
        """Return once the server accepts connections."""
        wait_until(lambda: answers(self.url), START_SECONDS, "the own Postgres")

    def stop_immediately(self) -> None:
        """Stop the server like a crash, without notice to clients and without a checkpoint."""
        self.stop("immediate")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server in this mode of pg_ctl; `fast` ends all sessions."""
        self._place.run("pg_ctl", "stop", "-m", mode)
        assert self._server is not None
        self._server.wait()

    @property
    def runs(self) -> bool:
        """Return whether the server runs; without space for its log it ends."""
        return self._server is not None and self._server.poll() is None

    def program(self, name: str) -> str:
        """Return the path of one of the server's programs."""
        return self._place.program(name)
