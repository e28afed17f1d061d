"""Starts the whole product on this machine in order, keeps it running, and stops it in order."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from deploy.client import Client, ClientError, Service, Token
from deploy.local import ports, processes
from deploy.local.configuration import (
    ADMIN_PORTS,
    AUDIENCE,
    KAFKA_PORT,
    PARTICIPANTS,
    SERVICES,
    Configuration,
    service_environment,
)
from deploy.local.console import CONSOLE, choose_port, console_environment
from deploy.local.demo import Demo
from deploy.local.folder import Folder, write_secrets
from deploy.local.playground.running import playing
from deploy.local.postgres import DATA, FAST_SHUTDOWN, Postgres, stop_server
from deploy.local.probes import is_ready, true
from deploy.local.processes import Child
from deploy.local.supervisor import SHOWN_LINES, Part, Ready, Say, Start, StartError, persist
from deploy.local.terminal import ready_page
from deploy.local.token import issuer_of
from shared.process.exits import Exit

BROKER = "broker"
POSTGRES = "postgres"
ISSUER = "issuer"
DEMO_SCOPES = "catalog:write coupons:write accounts:charge orders:read"
# One partition for each of the relay's shards. The relay creates its other topics itself.
TOPIC = "orders.v1:4"

# The groups that stop together, each with the seconds after Ctrl-C at which it is killed. Services that send commands
# stop first, so that no service loses another one that its work needs. All stop within 10 seconds.
STOP_ORDER: tuple[tuple[tuple[str, ...], float], ...] = (
    ((CONSOLE, "order", "relay"), 5.5),  # services finish what is in flight for up to 5 seconds
    (PARTICIPANTS, 7.5),
    ((BROKER, ISSUER), 8.0),
    ((POSTGRES,), 9.5),
)
LEFTOVER_SECONDS = 8.0  # a service's own limit for a graceful stop


class Stack:
    """The parts of one run. Call `up`, then `keep_up` in `open`, and in any case `down`."""

    servers: Sequence[str] = (POSTGRES, BROKER, ISSUER)
    has_playground = True
    stop_order = STOP_ORDER

    def __init__(self, configuration: Configuration, folder: Folder, say: Say, package: str) -> None:
        """`package` contains the five services, each as a package."""
        self._configuration = configuration
        self._folder = folder
        self._say = say
        self._package = package
        self._seconds = configuration.start_seconds
        self._parts: dict[str, Part] = {}
        self._environment: Mapping[str, str] = {}
        self._urls: Mapping[str, str] = {}
        self._migrator_urls = configuration.migrator_urls
        self._database = ""
        self._running = False
        self._kafka = configuration.kafka or ""
        self._console_port = 0
        self._playground = ""

    async def up(self, *, demo: bool) -> None:
        """Start everything. Raises StartError or PostgresError if a part doesn't start."""
        self._folder.start_logs([*self.servers, *SERVICES, CONSOLE])
        self._say(f"Starting; logs are in {self._folder.logs}")
        await together(self._start_database(), self._start_broker(), self._start_issuer())
        self._environment = service_environment(self._configuration, os.environ, self._urls, self._kafka)
        await self._migrate()
        # The embedded broker starts empty, and the data may have been published to another broker before. If both
        # servers are external, only their operators can declare that they belong together.
        if not (self._configuration.kafka and self._configuration.database_urls):
            await self._bootstrap()
        await together(*(self._start_service(service) for service in SERVICES), self._start_console())
        if demo:
            await self._load_demo()

    def page(self, *, demo: bool) -> str:
        """Return the page to print once everything is ready."""
        places = [("console", self._console), ("playground", self._playground)]
        return ready_page(self._configuration, places, self._kafka, self._folder.run_json, demo)

    @asynccontextmanager
    async def open(self, *, demo: bool) -> AsyncIterator[None]:
        """Say where everything is, with the playground, which needs demo data."""
        async with AsyncExitStack() as stack:
            if demo and self.has_playground:
                playground = playing(self._configuration, self._folder, self._parts, self._console, self._say)
                self._playground = await stack.enter_async_context(playground)
            self._running = True
            self._record()
            yield

    async def keep_up(self) -> None:
        """Restart processes that die, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in self._parts.values():
                group.create_task(part.keep())

    async def down(self) -> None:
        """Stop everything that runs, in order, within 10 seconds."""
        self._running = False
        self._folder.remove_run()
        begin = time.monotonic()
        for names, limit in self.stop_order:
            parts = [part for name in names if (part := self._parts.get(name)) is not None]
            left = limit - (time.monotonic() - begin)
            await asyncio.gather(*(part.stop(left) for part in parts))
        self._folder.write_processes([])

    async def _start_database(self) -> None:
        if self._configuration.database_urls:
            self._urls = self._configuration.database_urls
            self._database = self._urls["order"]
            self._say("Using the Postgres of the *_DATABASE_URL settings")
            return
        postgres = Postgres(self._folder, self._configuration.postgres_port, self._say)
        part = self._part(POSTGRES, lambda: postgres.start(self._seconds), true)
        part.stop_signal = FAST_SHUTDOWN
        await part.bring_up(self._seconds)
        await postgres.set_up(self._seconds)
        # Each service has its own roles.
        self._urls = {service: postgres.dsn(f"{service}_service_a") for service in SERVICES}
        self._migrator_urls = {service: postgres.dsn(f"{service}_migrator") for service in SERVICES}
        self._database = postgres.dsn()
        self._say(f"Postgres is ready on 127.0.0.1:{postgres.port}")

    async def _start_broker(self) -> None:
        if self._kafka:
            self._say(f"Using Kafka at {self._kafka}")
            return
        remembered = self._folder.remembered().get("kafka_port")
        port = ports.choose_again(self._configuration.kafka_port, remembered, KAFKA_PORT)
        command = (sys.executable, "-m", "deploy.local.broker", "--port", str(port), "--topic", TOPIC)
        log = self._folder.log(BROKER)
        part = self._part(BROKER, lambda: Child.start(command, log), lambda: asyncio.to_thread(ports.accepts, port))
        part.restarted = self._declare_again
        await part.bring_up(self._seconds)
        self._folder.remember(kafka_port=port)
        self._kafka = f"127.0.0.1:{port}"
        self._say(f"The broker is ready on {self._kafka} (in memory: it forgets everything when it stops)")

    async def _start_issuer(self) -> None:
        if not self._configuration.jwt:
            return
        for participant in PARTICIPANTS:
            write_secrets(self._configuration.secret_file(participant))
        port = self._configuration.issuer_port

        async def start() -> Child:
            command = (sys.executable, "-m", "deploy.issuer", *self._issuer_options(), "serve", "--port", str(port))
            return await Child.start(command, self._folder.log(ISSUER))

        async def ready() -> bool:
            return await asyncio.to_thread(ports.accepts, port)

        await self._part(ISSUER, start, ready).bring_up(self._seconds)
        self._say(f"The issuer is ready on {self._configuration.issuer} (for development; `make token` prints a token)")

    def _issuer_options(self) -> tuple[str, ...]:
        key = str(self._folder.issuer_key)
        return "--key-file", key, "--issuer", self._configuration.issuer, "--audience", AUDIENCE

    async def _migrate(self) -> None:
        # The relay's tables refer to the order service's outbox.
        first = [service for service in SERVICES if service != "relay"]
        await together(*(self._migrate_one(service) for service in first))
        await self._migrate_one("relay")
        self._say("The databases are migrated")

    async def _migrate_one(self, service: str) -> None:
        await self._command(service, "migrate", {f"{service.upper()}_DATABASE_URL": self._migrator_urls[service]})

    async def _bootstrap(self) -> None:
        await self._command("relay", "bootstrap")
        self._say("The relay knows its broker")

    async def _declare_again(self) -> None:
        """Run the relay's bootstrap, as at the start: a restarted embedded broker has lost all its data.

        It fails while the database is away. If the broker ends meanwhile, its next start calls this again.
        """
        async with self._parts["relay"].stopped(LEFTOVER_SECONDS, self._seconds):
            await persist(self._bootstrap, lambda: self._parts[BROKER].pid is not None, self._say)

    async def _command(self, service: str, command: str, settings: Mapping[str, str] | None = None) -> None:
        log = self._folder.log(service)
        argv = (sys.executable, "-m", f"{self._package}.{service}", command)
        status = await processes.run(argv, log, {**self._environment, **(settings or {})}, self._seconds)
        if status != 0:
            how = f"took longer than {self._seconds:g} s" if status is None else f"ended with status {status}"
            end = (f"  {line}" for line in processes.last_lines(log, SHOWN_LINES))
            raise StartError([f"{service} {command} {how}; the end of {log}:", *end], max(status or 0, Exit.FAILED))

    async def _start_service(self, service: str) -> None:
        url = f"{self._configuration.internal_url(service)}/readyz"
        command, log = (sys.executable, "-m", f"{self._package}.{service}"), self._folder.log(service)
        part = self._part(service, lambda: Child.start(command, log, self._environment), lambda: is_ready(url))
        await part.bring_up(self._seconds)
        self._say(f"{service} is ready on {self._configuration.url(service)}")

    @property
    def _console(self) -> str:
        return f"http://127.0.0.1:{self._console_port}"

    async def _start_console(self) -> None:
        port = self._console_port = choose_port(self._configuration, self._folder)
        environment = console_environment(self._configuration, self._environment, port)
        command, log = (sys.executable, "-m", "deploy.console"), self._folder.log(CONSOLE)
        ready = f"{self._console}/readyz"
        part = self._part(CONSOLE, lambda: Child.start(command, log, environment), lambda: is_ready(ready))
        await part.bring_up(self._seconds)
        self._folder.remember(console_port=port)
        self._say(f"The console is ready on {self._console}")

    def _part(self, name: str, start: Start, ready: Ready) -> Part:
        part = Part(name, start, ready, self._say, self._record, self._folder.log(name))
        self._parts[name] = part
        return part

    def _record(self) -> None:
        """Record the running processes: for the next run, in case this one is killed, and for other commands."""
        running = [(part.name, part.pid, part.started) for part in self._parts.values() if part.pid is not None]
        self._folder.write_processes([{"name": name, "pid": pid, "started": started} for name, pid, started in running])
        if self._running:
            url = self._configuration.url
            services: dict[str, dict[str, Any]] = {
                name: {"url": url(name), "pid": self._parts[name].pid} for name in SERVICES
            }
            for name in ADMIN_PORTS:
                services[name]["admin_url"] = self._configuration.admin_url(name)
            for name in PARTICIPANTS:
                services[name]["internal_url"] = self._configuration.internal_url(name)
                if self._configuration.jwt:
                    services[name]["secret_file"] = str(self._configuration.secret_file(name))
            issuer = self._configuration.issuer if self._configuration.jwt else None
            console = {"url": self._console, "pid": self._parts[CONSOLE].pid}
            run = {"kafka": self._kafka, "database": self._database, "issuer": issuer, "console": console}
            self._folder.write_run({**run, "playground": self._playground or None, "services": services})

    async def _load_demo(self) -> None:
        urls = {service: self._configuration.url(service.value) for service in Service}
        try:
            async with Client(urls, token=self._token()) as client:
                added = await Demo(client).load()
        except (ClientError, aiohttp.ClientError) as error:
            raise StartError([f"The demo data could not be loaded: {error}"]) from None
        self._say(f"Demo data: {added} added" if added else "Demo data: already there")

    def _token(self) -> Token | None:
        """Return what makes tokens for the demo data, or None in open mode."""
        if not self._configuration.jwt:
            return None
        issuer = issuer_of(self._folder, self._configuration.issuer)
        return lambda: issuer.token("demo", DEMO_SCOPES)


def stop_leftovers(folder: Folder, say: Say) -> None:
    """Stop, in order, the processes that a killed run left. The caller holds the folder's lock."""
    folder.remove_run()
    left = {str(record["name"]): record for record in folder.processes()}
    ordered = [name for names, _ in STOP_ORDER for name in names if name != POSTGRES]
    # Servers of `make ha` came before all others, so the latest is stopped first.
    for name in (*ordered, *(name for name in reversed(left) if name not in (*ordered, POSTGRES))):
        if name in left:
            pid, started = int(left[name]["pid"]), float(left[name]["started"])
            if processes.stop_process_of_earlier_run(pid, started, signal.SIGTERM, LEFTOVER_SECONDS):
                say(f"Stopped the {name} that an earlier run left (pid {pid})")
    for data in (folder.path / DATA, *folder.path.glob("ha/*/data")):
        if stop_server(data):
            say("Stopped the Postgres that an earlier run left")
    folder.write_processes([])


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all concurrently; the first failure cancels the others and is re-raised unchanged."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
