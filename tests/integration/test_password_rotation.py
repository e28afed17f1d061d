"""Passwords are rotated with the commands of docs/runbook.md while all services run, then Postgres is restarted."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import psycopg
import pytest

from deploy.consumer import __main__ as consumer
from deploy.consumer.settings import ConsumerSettings
from services.relay import process as relay
from services.relay.settings import RelaySettings
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.everything import migrate_everything
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries, wait_for
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS, Client, running, serving
from tests.infrastructure.shopping import new_id
from tests.infrastructure.waiting import eventually, free_port
from tests.runbook.blocks import blocks_by

HEAL_SECONDS = 10.0
ROLES = {**{name: f"{name}_service" for name in SCHEMAS}, "consumer": "platform_consumer"}


def steps() -> list[str]:
    """Return the commands of the runbook's section, in sequence."""
    return [block.code for block in blocks_by("tests/integration/test_password_rotation.py")]


class Server:
    """A separate server that asks for passwords, except a superuser's."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self.url = start_binaries(system_binaries() or packaged_binaries(), reaper)
        self.execute(
            "COPY (VALUES ('host all postgres 127.0.0.1/32 trust'), ('host all all 127.0.0.1/32 scram-sha-256'))"
            " TO PROGRAM 'cat > pg_hba.conf'"
        )
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as an administrator; return its rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            result = connection.execute(statement)
            return result.fetchall() if result.description else []

    def run(self, commands: str, address_file: str = "") -> str:
        """Run the runbook's commands, as an administrator of this server; return what they print."""
        variables = {"ADMIN": self.url, "MONITOR": self.url, "ADDRESS_FILE": address_file}
        path = f"{packaged_binaries()}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            env={**os.environ, **variables, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{commands}: {done.stderr}"
        return done.stdout

    def restart(self) -> None:
        """Stop the server as an operator does, which closes all connections, and start it again."""
        ((pid,),) = self.execute("SELECT split_part(pg_read_file('postmaster.pid'), chr(10), 1)::int")
        old = psutil.Process(pid)
        command, folder, user = old.cmdline(), old.cwd(), old.uids().real
        old.send_signal(signal.SIGINT)
        old.wait(HEAL_SECONDS)
        server = subprocess.Popen(
            command, cwd=folder, user=user, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        self._reaper.process(server, signal.SIGQUIT)
        wait_for(self.url)


class Files:
    """Each service's file with its database's address."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self._place = urlsplit(database.url)

    def path(self, service: str) -> str:
        """Return the file of a service."""
        return str(self._folder / service)

    def empty(self, service: str) -> None:
        """Leave an empty file, as a full disk does."""
        (self._folder / service).write_text("")

    def replace(self, service: str, role: str, password: str) -> None:
        """Write a new file and rename it."""
        netloc = f"{role}:{password}@{self._place.netloc.rpartition('@')[2]}"
        new = self._folder / f"{service}.new"
        new.write_text(self._place._replace(netloc=netloc).geturl())
        new.rename(self.path(service))


@pytest.fixture(scope="module")
def server(reaper: Reaper) -> Server:
    return Server(reaper)


@asynccontextmanager
async def everything(files: Files, kafka: str) -> AsyncIterator[Mapping[str, Client]]:
    """Serve all services and a consumer, which take their database's address from the files."""
    broker: dict[str, Any] = {"kafka_bootstrap_servers": kafka, "topic": f"orders.test-{uuid4().hex}"}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        clients = {
            name: await enter(serving(name, None, database_url_file=files.path(name)))
            for name in ("product", "coupon", "balance")
        }
        others = {f"{name}_url": client.url for name, client in clients.items()}
        clients["order"] = await enter(serving("order", None, database_url_file=files.path("order"), **others))
        settings: Any = {"database_url_file": files.path("relay"), **broker}
        clients["relay"] = await enter(running(relay.serve, RelaySettings(port=free_port(), **settings)))
        settings = {"database_url_file": files.path("consumer"), "relay_url": clients["relay"].url, **broker}
        clients["consumer"] = await enter(running(consumer.serve, ConsumerSettings(port=free_port(), **settings)))
        yield clients


async def all_ready(clients: Mapping[str, Client]) -> None:
    """Wait until every service is ready."""

    async def ready() -> bool:
        return all([(await client.call("GET", "/readyz")).status == 200 for client in clients.values()])

    await eventually(ready, HEAL_SECONDS, "readiness of all")


async def check_out(clients: Mapping[str, Client]) -> None:
    """Place and pay an order."""
    product_id, user_id = new_id("product"), new_id("user")
    await clients["product"].post("/v1/products", {"product_id": product_id, "name": "Thing", "price": 100, "stock": 1})
    await clients["balance"].post(f"/v1/accounts/{user_id}/charges", {"amount": 100})
    body = {"user_id": user_id, "lines": [{"product_id": product_id, "quantity": 1}]}
    assert (await clients["order"].post("/v1/orders", body))["status"] == "PAID"


async def test_rotated_passwords_survive_a_restart_of_postgres(
    server: Server, kafka_bootstrap: str, tmp_path: Path
) -> None:
    new_password, replace, close, show, remove = steps()
    with fresh_database(server.url) as database:
        await asyncio.to_thread(migrate_everything, database)
        files = Files(tmp_path, database)
        for service, role in ROLES.items():
            server.execute(f"ALTER ROLE {role}_a PASSWORD 'old-{service}'")
            files.replace(service, f"{role}_a", f"old-{service}")
        async with everything(files, kafka_bootstrap) as clients:
            await all_ready(clients)
            await check_out(clients)
            for service, role in ROLES.items():
                path = files.path(service)
                for step in (new_password, replace, close):
                    await asyncio.to_thread(server.run, step.replace("order_service", role), path)
                await all_ready(clients)
                assert (await asyncio.to_thread(server.run, show.replace("order_service", role))).strip() == ""
                assert server.execute(f"SELECT 1 FROM pg_stat_activity WHERE usename = '{role}_b'")
                await asyncio.to_thread(server.run, remove.replace("order_service", role))
            await check_out(clients)
            await asyncio.to_thread(server.restart)
            await all_ready(clients)
            await check_out(clients)


async def test_broken_address_file_makes_a_service_unready_once_it_must_connect(server: Server, tmp_path: Path) -> None:
    with fresh_database(server.url) as database:
        files = Files(tmp_path, database)
        files.replace("balance", "postgres", "unused")
        await asyncio.to_thread(migrate_everything, database)
        async with serving("balance", None, database_url_file=files.path("balance")) as client:
            await all_ready({"balance": client})
            files.empty("balance")
            await client.post("/v1/accounts/anna/charges", {"amount": 1})
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^balance'")

            async def names_the_file() -> bool:
                checks = (await client.call("GET", "/readyz")).body["checks"]
                return f"{files.path('balance')} is empty" in checks["database"]

            await eventually(names_the_file, HEAL_SECONDS, "the reason")
            answer = await client.call("POST", "/v1/accounts/anna/charges", {"amount": 1})
            assert (answer.status, files.path("balance") in str(answer.body)) == (503, False)
            files.replace("balance", "postgres", "unused")
            await all_ready({"balance": client})
