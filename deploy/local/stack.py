"""The whole product on this machine: what is started in which order, kept running, and stopped in which order."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import aiohttp

from deploy.local import ports, processes
from deploy.local.configuration import KAFKA_PORT, PARTICIPANTS, SERVICES, Configuration, service_environment
from deploy.local.demo import Demo, DemoError
from deploy.local.folder import Folder
from deploy.local.postgres import FAST_SHUTDOWN, Postgres
from deploy.local.processes import Child
from deploy.local.supervisor import SHOWN_LINES, Part, Ready, Say, Start, StartError
from deploy.local.terminal import ready_page
from shared.exits import Exit

BROKER = "broker"
POSTGRES = "postgres"
# One partition for each of the relay's shards. It creates its other topics itself.
TOPIC = "orders.v1:4"
PROBE = aiohttp.ClientTimeout(total=2)
DEMO = aiohttp.ClientTimeout(total=30)  # a whole request; the first ones meet cold caches

# Who is asked to stop together, and by when after Ctrl-C it is killed: who starts commands goes first, so that nobody's
# work is cut off by the end of what it needs. All within 10 seconds.
STOP_ORDER: tuple[tuple[tuple[str, ...], float], ...] = (
    (("order", "relay"), 5.5),  # services finish what is in flight for up to 5 seconds
    (PARTICIPANTS, 7.5),
    ((BROKER,), 8.0),
    ((POSTGRES,), 9.5),
)
LEFTOVER_SECONDS = 8.0  # a service's own limit for a graceful stop


class Stack:
    """The parts of one run. `up`, then `keep_up`, then in any case `down`."""

    def __init__(self, configuration: Configuration, folder: Folder, say: Say, package: str) -> None:
        """`package` holds the five services, each a package of its own."""
        self._configuration = configuration
        self._folder = folder
        self._say = say
        self._package = package
        self._seconds = configuration.start_seconds
        self._parts: dict[str, Part] = {}
        self._environment: Mapping[str, str] = {}
        self._urls: Mapping[str, str] = {}
        self._database = ""
        self._running = False
        self._kafka = configuration.kafka or ""

    async def up(self, *, demo: bool) -> None:
        """Start everything; StartError or PostgresError when something doesn't start."""
        self._folder.start_logs([POSTGRES, BROKER, *SERVICES])
        self._say(f"Starting; logs are in {self._folder.logs}")
        await together(self._start_database(), self._start_broker())
        self._environment = service_environment(self._configuration, os.environ, self._urls, self._kafka)
        await self._migrate()
        # Our broker begins empty, and our data may have been published to another one before. Of two servers that
        # aren't ours, only their operators can say that they belong together.
        if BROKER in self._parts or POSTGRES in self._parts:
            await self._bootstrap()
        await together(*(self._start_service(service) for service in SERVICES))
        if demo:
            await self._load_demo()
        self._running = True
        self._record()

    def page(self, *, demo: bool) -> str:
        """What to read once everything serves."""
        return ready_page(self._configuration, self._kafka, self._folder.run_json, demo)

    async def keep_up(self) -> None:
        """Restart what dies, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in self._parts.values():
                group.create_task(part.keep())

    async def down(self) -> None:
        """Stop everything that runs, in order, within 10 seconds."""
        self._running = False
        self._folder.remove_run()
        begin = time.monotonic()
        for names, limit in STOP_ORDER:
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
        self._urls, self._database = postgres.service_urls(), postgres.dsn()
        self._say(f"Postgres is ready on 127.0.0.1:{postgres.port}")

    async def _start_broker(self) -> None:
        if self._kafka:
            self._say(f"Using Kafka at {self._kafka}")
            return
        wanted = self._configuration.kafka_port
        port = wanted or ports.choose([self._folder.remembered().get("kafka_port", KAFKA_PORT), KAFKA_PORT])

        async def start() -> Child:
            command = (sys.executable, "-m", "deploy.local.broker", "--port", str(port), "--topic", TOPIC)
            return await Child.start(command, self._folder.log(BROKER))

        async def ready() -> bool:
            return await asyncio.to_thread(ports.accepts, port)

        part = self._part(BROKER, start, ready)
        part.restarted = self._declare_again
        await part.bring_up(self._seconds)
        self._folder.remember(kafka_port=port)
        self._kafka = f"127.0.0.1:{port}"
        self._say(f"The broker is ready on {self._kafka} (in memory: it forgets everything when it stops)")

    async def _migrate(self) -> None:
        # The relay's tables refer to the order service's outbox.
        first = [service for service in SERVICES if service != "relay"]
        await together(*(self._command(service, "migrate") for service in first))
        await self._command("relay", "migrate")
        self._say("The databases are migrated")

    async def _bootstrap(self) -> None:
        await self._command("relay", "bootstrap")
        self._say("The relay knows its broker")

    async def _declare_again(self) -> None:
        """A broker that was restarted has forgotten everything, so the relay is told so, as at the start."""
        try:
            async with self._parts["relay"].stopped(LEFTOVER_SECONDS, self._seconds):
                await self._bootstrap()
        except StartError as error:
            for line in error.lines:
                self._say(line)

    async def _command(self, service: str, command: str) -> None:
        log = self._folder.log(service)
        argv = (sys.executable, "-m", f"{self._package}.{service}", command)
        status = await processes.run(argv, log, self._environment, self._seconds)
        if status != 0:
            how = f"took longer than {self._seconds:g} s" if status is None else f"ended with status {status}"
            end = (f"  {line}" for line in processes.last_lines(log, SHOWN_LINES))
            raise StartError([f"{service} {command} {how}; the end of {log}:", *end], max(status or 0, Exit.FAILED))

    async def _start_service(self, service: str) -> None:
        await self._service(service).bring_up(self._seconds)
        self._say(f"{service} is ready on {self._configuration.url(service)}")

    def _service(self, service: str) -> Part:
        url = f"{self._configuration.url(service)}/readyz"
        command = (sys.executable, "-m", f"{self._package}.{service}")

        async def start() -> Child:
            return await Child.start(command, self._folder.log(service), self._environment)

        async def ready() -> bool:
            return await is_ready(url)

        return self._part(service, start, ready)

    def _part(self, name: str, start: Start, ready: Ready) -> Part:
        part = Part(name, start, ready, self._say, self._record, self._folder.log(name))
        self._parts[name] = part
        return part

    def _record(self) -> None:
        """Write down what runs: for the next run, should this one be killed, and for everybody else."""
        running = [(part.name, part.pid, part.started) for part in self._parts.values() if part.pid is not None]
        self._folder.write_processes([{"name": name, "pid": pid, "started": started} for name, pid, started in running])
        if self._running:
            url = self._configuration.url
            services: dict[str, dict[str, Any]] = {
                name: {"url": url(name), "pid": self._parts[name].pid} for name in SERVICES
            }
            services["order"]["admin_url"] = self._configuration.admin_url()
            self._folder.write_run({"kafka": self._kafka, "database": self._database, "services": services})

    async def _load_demo(self) -> None:
        urls = {service: self._configuration.url(service) for service in SERVICES}
        try:
            async with aiohttp.ClientSession(timeout=DEMO) as session:
                added = await Demo(session, urls).load()
        except (DemoError, aiohttp.ClientError, TimeoutError) as error:
            raise StartError([f"The demo data could not be loaded: {error}"]) from None
        self._say(f"Demo data: {added} added" if added else "Demo data: there already")


def stop_leftovers(folder: Folder, say: Say) -> None:
    """Stop what a run that was killed left running, in order; call it with the folder locked."""
    folder.remove_run()
    left = {str(record["name"]): record for record in folder.processes()}
    for names, _ in STOP_ORDER:
        for name in names:
            if name == POSTGRES:
                if Postgres(folder, None, say).stop_leftover():
                    say("Stopped the Postgres that an earlier run left")
            elif name in left:
                pid, started = int(left[name]["pid"]), float(left[name]["started"])
                if processes.stop_stranger(pid, started, signal.SIGTERM, LEFTOVER_SECONDS):
                    say(f"Stopped the {name} that an earlier run left (pid {pid})")
    folder.write_processes([])


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all at once; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def is_ready(url: str) -> bool:
    """Whether the service answers that it can serve."""
    try:
        async with aiohttp.ClientSession(timeout=PROBE) as session, session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def true() -> bool:
    """The readiness of what is ready once it has started."""
    return True
