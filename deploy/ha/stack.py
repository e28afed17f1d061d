"""Starts the platform on a Postgres that fails over: etcd, the members, HAProxy, and then what `make run` starts."""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

from deploy.ha import peers
from deploy.ha.members import Members, NotMovedError
from deploy.ha.programs import (
    ETCDS,
    HAPROXY,
    MEMBERS,
    PASSWORDS,
    Layout,
    Program,
    patroni_port,
    peer_port,
    port_names,
    postgres_binaries,
)
from deploy.local import ports, processes
from deploy.local.configuration import PARTICIPANTS, SERVICES, Configuration
from deploy.local.console import CONSOLE
from deploy.local.folder import Folder
from deploy.local.postgres import dsn, set_up, unprivileged
from deploy.local.probes import is_ready
from deploy.local.processes import POLL_SECONDS, Account, Child
from deploy.local.stack import BROKER, ISSUER, LEFTOVER_SECONDS, Stack, together
from deploy.local.supervisor import Ready, Say, StartError
from shared.process.exits import Exit

# The next ones are tried for the others; if one is taken, a free port replaces it. All are below the ports that systems
# give to outgoing connections (from 32768): such a connection would take a port while this does not run.
FIRST_PORT = 24330
STANDBYS_STRICT = 2  # with so many, a commit never goes on without one (strict.yml)


class HaStack(Stack):
    """The parts of one run on a cluster with this number of standbys, 1 or 2."""

    has_playground = False  # it would neither show nor break the cluster

    def __init__(self, configuration: Configuration, folder: Folder, say: Say, package: str, *, standbys: int) -> None:
        super().__init__(configuration, folder, say, package)
        self._members = MEMBERS[: standbys + 1]
        self._account = unprivileged()
        self._layout = _layout(configuration, folder, self._members)
        # The last run had it, and this one shall not. It may be the only one that has every order.
        self._leaving = tuple(one for one in MEMBERS if one not in self._members and self._layout.data(one).exists())
        self.servers = (*ETCDS, *self._members, *self._leaving, HAPROXY, BROKER, ISSUER)
        names = (*self._members, *self._leaving)
        urls = {member: f"http://{self._layout.address(patroni_port(member))}" for member in names}
        self._cluster = Members(urls, self._layout.passwords["patroni"])

    def page(self, *, demo: bool) -> str:
        """Return the page to print once everything is ready."""
        command = " ".join(self._layout.patronictl)
        lines = [
            f"Postgres: {self._layout.address(HAPROXY)} leads to the primary. The members, and a switchover:",
            f"  {command} list",
            f"  {command} switchover --force",
        ]
        return "\n".join([super().page(demo=demo), *lines, ""])

    async def down(self) -> None:
        """Stop everything that runs, in order: the primary last of the members, so that nobody is promoted."""
        primary = await self._cluster.primary()
        standbys = tuple(member for member in (*self._members, *self._leaving) if member != primary)
        self.stop_order = (
            ((CONSOLE, "order", "relay"), 5.5),
            (PARTICIPANTS, 7.5),
            ((BROKER, ISSUER, HAPROXY), 8.0),
            (standbys, 14.0),
            ((primary,) if primary else (), 20.0),
            (ETCDS, 22.0),
        )
        await super().down()

    async def _start_database(self) -> None:
        layout, folder = self._layout, self._folder
        await asyncio.to_thread(layout.prepare, self._account, self._say)
        await together(
            *(self._start_program(layout.etcd(etcd), ready=self._is_healthy(etcd)) for etcd in ETCDS),
            peers.tell([*map(layout.client_url, ETCDS)], {etcd: layout.peer_url(etcd) for etcd in ETCDS}),
        )
        self._say("etcd is ready: three members")
        starting = (
            self._start_program(layout.patroni(member), ready=self._runs(member), account=self._account)
            for member in (*self._members, *self._leaving)
        )
        await together(*starting)
        primary = await self._in_sync()
        for member in self._leaving:
            primary = await self._remove(member, primary)
        await self._set_strictness()
        await self._start_program(layout.haproxy(), ready=self._accepts(HAPROXY))
        await set_up(layout.binaries / "psql", layout.ports[primary], folder, self._seconds)
        port = layout.ports[HAPROXY]
        self._urls = {service: dsn(folder, port, f"{service}_service_a") for service in SERVICES}
        self._migrator_urls = {service: dsn(folder, port, f"{service}_migrator") for service in SERVICES}
        self._database = dsn(folder, port)
        self._say(
            f"Postgres is ready on {layout.address(HAPROXY)}: {primary} is primary of {len(self._members)} members"
        )

    async def _start_program(self, program: Program, *, ready: Ready, account: Account | None = None) -> None:
        log = self._folder.log(program.name)

        async def start() -> Child:
            return await Child.start(program.command, log, program.environment, account=account)

        await self._part(program.name, start, ready).bring_up(self._seconds)

    def _accepts(self, name: str) -> Ready:
        return lambda: asyncio.to_thread(ports.accepts, self._layout.ports[name])

    def _is_healthy(self, etcd: str) -> Ready:
        return lambda: is_ready(f"{self._layout.client_url(etcd)}/health")

    def _runs(self, member: str) -> Ready:
        return lambda: self._cluster.runs(member)

    async def _remove(self, member: str, primary: str) -> str:
        """Stop a member that the last run had, as docs/failover.md says; return the primary."""
        if primary == member:
            try:
                await self._cluster.switch_over(member, (await self._cluster.in_sync())[0])
            except NotMovedError as error:
                raise StartError([f"{member} is primary, and Patroni does not move it: {error}"]) from None
        await self._parts.pop(member).stop(LEFTOVER_SECONDS)
        primary = await self._in_sync()
        # With it, a later run with this member would start it from where it is now, and that may be too far behind.
        await asyncio.to_thread(shutil.rmtree, self._layout.data(member))
        self._say(f"{member} has left the cluster, and its data is removed; {primary} is primary")
        return primary

    async def _in_sync(self) -> str:
        """Wait until a standby is in sync; return the primary. From then on, a lost primary loses no order."""
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    primary = await self._cluster.primary()
                    if primary is not None and await self._cluster.in_sync():
                        return primary
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            logs = self._folder.logs
            raise StartError([f"No standby was in sync after {self._seconds:g} s; logs are in {logs}"]) from None

    async def _set_strictness(self) -> None:
        """Apply strict.yml if there are enough standbys, and undo it if the last run had more of them."""
        strict = len(self._members) > STANDBYS_STRICT
        command = self._layout.strictness(strict=strict)
        log = self._folder.log("patronictl")
        if await processes.run(command, log, self._layout.haproxy().environment, self._seconds) != 0:
            raise StartError(["patronictl edit-config failed:", *processes.last_lines(log, 10)])
        if strict:
            self._say("With two standbys, a commit always waits for one of them")


def _layout(configuration: Configuration, folder: Folder, members: tuple[str, ...]) -> Layout:
    """Return the cluster of this folder, at the ports of its last run if they are free."""
    binaries = postgres_binaries()
    assert binaries is not None, "checked before"
    chosen = choose_ports(configuration, folder.remembered().get("ha_ports", {}), folder.path / "ha")
    folder.remember(ha_ports=chosen)
    passwords = {name: folder.password(name) for name in PASSWORDS}
    return Layout(folder.path / "ha", members, chosen, passwords, binaries)


def choose_ports(configuration: Configuration, remembered: Mapping[str, int], data: Path) -> dict[str, int]:
    """Return a port for each server: the one of the last run if it is free. `data` has a folder for each etcd.

    Raises StartError if the three etcds of the last run can't find each other any more.
    """
    chosen: dict[str, int] = {}
    for number, name in enumerate(port_names(len(MEMBERS))):
        if name == HAPROXY and configuration.postgres_port is not None:
            chosen[name] = configuration.postgres_port
        else:
            used = configuration.wanted_ports | set(chosen.values())
            chosen[name] = ports.choose([remembered.get(name, FIRST_PORT + number)], used)
    moved = [etcd for etcd in ETCDS if remembered.get(peer_port(etcd)) not in (None, chosen[peer_port(etcd)])]
    # The two that stay tell the third one's new port to each other (peers.py). One alone can't decide that.
    if len(moved) > 1 and any((data / etcd).exists() for etcd in ETCDS):
        raise StartError(
            [
                f"port {remembered[peer_port(etcd)]} is taken, {etcd} needs it: stop what uses it"
                " (only one of the three etcds can get another port)"
                for etcd in moved
            ],
            Exit.CANNOT_LISTEN,
        )
    return chosen
