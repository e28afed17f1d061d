"""A Postgres that fails over, for one test: deploy/ha's Patroni, etcd and HAProxy, which a test may kill and pause."""

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from deploy.ha.members import Members
from deploy.ha.programs import (
    ETCDS,
    HAPROXY,
    MEMBERS,
    PASSWORDS,
    Layout,
    Program,
    missing,
    patroni_port,
    port_names,
    postgres_binaries,
)
from deploy.local.postgres import unprivileged
from deploy.local.processes import Account, processes_in
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_ports, listens, wait_until

START_SECONDS = 90  # initdb, a base backup and three elections on a busy machine
HEAL_SECONDS = 60  # for a former primary that is rewound, or copied
STOP_SECONDS = 20


def why_not() -> str | None:
    """Return why this machine can't run a cluster; None if it can."""
    return "; ".join(missing()) or None


class OwnHa:
    """Two members, or three in strict mode; three etcds; HAProxy. `port` and `url` are HAProxy's, as a superuser."""

    def __init__(self, reaper: Reaper, folder: Path, standbys: int = 1) -> None:
        self._reaper = reaper
        self._folder = folder
        self._account = unprivileged()
        members, binaries = MEMBERS[: standbys + 1], postgres_binaries()
        assert binaries is not None
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        names = port_names(len(MEMBERS))
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.layout = Layout(folder, members, ports, dict.fromkeys(PASSWORDS, "secret"), binaries)
        self.layout.prepare(self._account, print)
        self.port = ports[HAPROXY]
        self.url = f"postgresql://postgres:secret@127.0.0.1:{self.port}/postgres"
        # Also one that is added later.
        urls = {member: f"http://{self.layout.address(patroni_port(member))}" for member in MEMBERS}
        self.members = Members(urls, "secret")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # What a killed Patroni leaves, and what is paused when the run is killed.
        reaper.users(folder)

    def start(self) -> None:
        """Start everything; `wait` returns when it serves."""
        for etcd in ETCDS:
            self._spawn(self.layout.etcd(etcd))
        for member in self.layout.members:
            self.start_member(member)
        self._spawn(self.layout.haproxy())

    def wait(self) -> None:
        """Return when a standby is in sync, and HAProxy leads to the primary. With three members, be strict."""
        asyncio.run(self.healed(START_SECONDS))
        if len(self.layout.members) > 2:
            subprocess.run(self.layout.strictness(strict=True), check=True, capture_output=True)
        wait_until(self._serves, START_SECONDS, "a primary behind HAProxy")

    async def healed(self, seconds: float = HEAL_SECONDS) -> None:
        """Wait until there is a primary, every other member follows it, and one is in sync."""

        async def whole() -> bool:
            primary = await self.members.primary()
            followers = [member for member in self.layout.members if member != primary]
            streaming = [await self.members.streams(member) for member in followers]
            return primary is not None and all(streaming) and bool(await self.members.in_sync())

        await eventually(whole, seconds, f"all members, and one in sync (logs in {self._folder})")

    async def primary(self) -> str:
        """Return the primary, once there is one."""
        found = await eventually(self.members.primary, HEAL_SECONDS, "a primary")
        assert found is not None
        return found

    async def standby(self) -> str:
        """Return a standby that is in sync, once there is one."""
        return (await eventually(self.members.in_sync, HEAL_SECONDS, "a standby in sync"))[0]

    def start_member(self, member: str) -> None:
        """Start a member's Patroni, which starts its Postgres."""
        self._spawn(self.layout.patroni(member), self._account)

    def kill_member(self, member: str) -> None:
        """Kill a member's Patroni, so that it can't start Postgres again, and then its Postgres."""
        self._running[member].kill()
        self._running[member].wait()
        wait_until(lambda: not _signalled(processes_in(self.layout.data(member)), psutil.Process.kill), 5, "its end")

    def pause_member(self, member: str) -> None:
        """Pause all processes of a member, as if its machine hung: connections stay, and nobody answers."""
        for _ in range(2):  # also what was started meanwhile
            _signalled(self._processes(member), psutil.Process.suspend)

    def wake_member(self, member: str) -> None:
        """Resume a member."""
        _signalled(reversed(list(self._processes(member))), psutil.Process.resume)

    def kill_etcd(self, name: str) -> None:
        """Kill one of the three etcds."""
        self._running[name].kill()
        self._running[name].wait()

    def start_etcd(self, name: str) -> None:
        """Start an etcd again."""
        self._spawn(self.layout.etcd(name))

    def restart_haproxy(self) -> None:
        """End HAProxy with all its sessions, and start it again."""
        self._running[HAPROXY].send_signal(signal.SIGTERM)
        self._running[HAPROXY].wait(STOP_SECONDS)
        self._spawn(self.layout.haproxy())
        wait_until(lambda: listens("127.0.0.1", self.port), STOP_SECONDS, "HAProxy")

    def wake_all(self) -> None:
        """Resume whatever is paused, so that it can end."""
        for member in self.layout.members:
            if member in self._running:
                self.wake_member(member)

    def _processes(self, member: str) -> Iterator[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            patroni = psutil.Process(self._running[member].pid)
            yield patroni
            yield from patroni.children(recursive=True)
        yield from processes_in(self.layout.data(member))

    def _spawn(self, program: Program, account: Account | None = None) -> None:
        # Without root's group, to which its home may be closed.
        who: dict[str, Any] = (
            {"user": account.uid, "group": account.gid, "extra_groups": []} if account is not None else {}
        )
        with (self._folder / f"{program.name}.log").open("ab") as log:
            self._running[program.name] = subprocess.Popen(
                program.command,
                env=dict(program.environment),
                cwd="/",
                stdout=log,
                stderr=log,
                start_new_session=True,
                **who,
            )
        self._reaper.process(self._running[program.name], signal.SIGKILL)  # the data is thrown away

    def _serves(self) -> bool:
        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        except psycopg.OperationalError:
            return False
        return row == (False,)


def _signalled(found: Iterable[psutil.Process], send: Callable[[psutil.Process], None]) -> bool:
    """Signal these processes; return whether there was one."""
    any_found = False
    for process in found:
        any_found = True
        with suppress(psutil.NoSuchProcess):
            send(process)
    return any_found
