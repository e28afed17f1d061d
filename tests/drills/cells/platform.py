"""Two cells and two product shards behind the router, with one consumer: what the drills strike."""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from tests.drills.cells.load import CELLS, OFFICE, OFFICE_SCOPES, SLOTS, LoadOfCells
from tests.drills.cells.sums import differences
from tests.drills.load import Purchase
from tests.drills.platform import LONG, RECOVER_SECONDS, Pace, consumer, waited_for_publication
from tests.drills.tokens import Tokens
from tests.drills.verdict import Audited, Records, Verdict, judge
from tests.faults.cluster import PARTICIPANTS, REPLICAS, SETTINGS, Addresses, Cluster, cluster
from tests.faults.process import Process
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.orderctl import all_at, orderctl
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.own_postgres import OwnPostgres
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.router import Router, router
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import eventually, free_port

TOPICS = ("orders.v1", "orders.c01.v1")  # of the cells
SINCE, SINCE_MILLISECONDS = "2020-01-01T00:00:00Z", 1_577_836_800_000
AUDITED_SECONDS = 30
PROVEN_SECONDS = 180  # the minute that runs, and a comparison


class Security:
    """Tokens for customers, and secrets between the services; no certificates."""

    tls = None
    operator: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        self.tokens = Tokens(folder)
        self.settings = self.tokens.settings
        for name in PARTICIPANTS:
            file = folder / f"{name}.secrets"
            file.write_text(f"order {secrets.token_hex(32)}\n")
            self.settings[f"{name.upper()}_INTERNAL_SECRET_FILE"] = str(file)
            self.settings[f"ORDER_{name.upper()}_INTERNAL_SECRET_FILE"] = str(file)

    def session(self, url: str, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        """Return a session of the back office, whose requests pass these middlewares."""
        headers = {"Authorization": f"Bearer {self.tokens.token(OFFICE, OFFICE_SCOPES)}"}
        return aiohttp.ClientSession(url, headers=headers, middlewares=middlewares)


@dataclass(slots=True)
class Cells:
    """The running platform. `further`: what the fault that runs finds wrong, and what it measures."""

    clusters: Sequence[Cluster]
    admins: Sequence[str]
    shards: Sequence[Process]
    databases: Sequence[Database]  # of the shards
    consumer: Process
    consumer_database: Database
    router: Router
    security: Security
    load: LoadOfCells
    pace: Pace
    wrong: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)

    @property
    def processes(self) -> dict[str, Process]:
        """Return all processes but the router's; those of a cell begin with its name."""
        found = {
            f"{cell}-{name}": process
            for cell, one in zip(CELLS, self.clusters, strict=True)
            for name, process in one.processes.items()
        }
        return found | {process.name: process for process in (*self.shards, self.consumer)}

    def process(self, name: str) -> Process:
        """Return one of them."""
        return self.processes[name]

    def check_disks(self) -> None:
        """Servers have the machine's disk here."""

    async def recovered(self, since: float) -> float:
        """Wait until everything is ready, each customer has bought since `since` and no event waits.

        Return the seconds from `since` on.
        """
        async with asyncio.timeout(RECOVER_SECONDS):
            for process in self.processes.values():
                await process.ready(RECOVER_SECONDS)

            async def all_buy() -> bool:
                return all(self.load.bought.get(number, 0) > since for number in range(self.pace.customers))

            await eventually(all_buy, RECOVER_SECONDS, "an order of each customer")
            bought = time.monotonic()
            for one in self.clusters:
                if await waited_for_publication(one.database.url):
                    bought = time.monotonic()
        return bought - since

    async def judge(self, purchases: Sequence[Purchase]) -> Verdict:
        """Compare all books with what customers were told, once nothing is in progress."""
        cells = [one.database.url for one in self.clusters]
        shards = [database.url for database in self.databases]
        books = {"order": cells, "coupon": cells, "balance": cells, "product": shards}
        verdict = await judge(Records(cells, self.consumer_database.url, books, self._audited), purchases)
        topics = dict(zip(TOPICS, cells, strict=True))
        found = await differences(topics, shards, self.consumer_database.url)
        wrong, figures = (*verdict.wrong, *found, *self.wrong), tuple(self.figures)
        self.wrong.clear()
        self.figures.clear()
        return Verdict(verdict.lost, verdict.audit, wrong, figures)

    async def _audited(self) -> Audited:
        """Run the operators' audit of all cells, once no order is too young for it."""
        settings = all_at(self.admins[0]) | {"ORDERCTL_TOKEN": self.security.tokens.token("sue", "ops")}
        cells = [word for url in self.admins for word in ("--cell", url)]

        async def report() -> Any:
            ended = await orderctl(settings, "audit", "--json", *cells)
            if ended.status not in (0, 4):
                return {"clean": False, "slots": [ended.err], "cells": []}
            found = json.loads(ended.out)
            return None if any(cell["recent"] for cell in found["cells"]) else found

        found = await eventually(report, AUDITED_SECONDS, "an audit of all orders")
        findings = [*found["slots"], *(finding for cell in found["cells"] for finding in cell["findings"])]
        return "clean" if found["clean"] else f"{len(findings)} findings", findings

    async def is_proven(self, since: float) -> bool:
        """Return whether the consumer has proven that it has everything up to `since`, by time.time()."""
        async with aiohttp.ClientSession(self.consumer.url) as session, session.get("/v1/completeness") as answer:
            up_to = (await answer.json())["proven_up_to"]
        return up_to is not None and datetime.fromisoformat(up_to).timestamp() > since

    async def asked(self, user_id: str, path: str) -> tuple[int, str]:
        """Send a customer's request to the router; return the status, and the type of a problem."""
        headers = {"Authorization": f"Bearer {self.security.tokens.token(user_id)}"}
        async with (
            aiohttp.ClientSession(self.router.url, headers=headers) as session,
            session.get(path) as answer,
        ):
            return answer.status, (await answer.json(content_type=None)).get("type", "")

    async def kill_cell(self, number: int) -> None:
        """Kill all processes of a cell, and its Postgres server."""
        processes = self.clusters[number].processes.values()
        for process in processes:
            process.send(signal.SIGKILL)
        await asyncio.to_thread(self._server(number).stop_immediately)
        await asyncio.gather(*(process.ended() for process in processes))

    async def start_cell(self, number: int) -> None:
        """Start them again."""
        self._server(number).start()
        await asyncio.to_thread(self._server(number).wait)
        for process in self.clusters[number].processes.values():
            process.start()

    def _server(self, number: int) -> OwnPostgres:
        server = self.clusters[number].postgres
        assert isinstance(server, OwnPostgres)
        return server


@asynccontextmanager
async def cells(reaper: Reaper, folder: Path, pace: Pace) -> AsyncIterator[Cells]:
    """Start everything: a Postgres server for each cell, one for the shards and the consumer, and one Kafka.

    In the short form processes start as forks, which its figures then don't show.
    """
    security, broker, forked = Security(folder), OwnBroker(reaper), pace is not LONG
    server = OwnPostgres(reaper)
    server.start()
    await asyncio.to_thread(server.wait)
    async with AsyncExitStack() as stack:
        databases = [stack.enter_context(fresh_database(server.url)) for _ in SLOTS]
        common = os.environ | SETTINGS | security.settings
        shards = []
        for number, (slots, database) in enumerate(zip(SLOTS, databases, strict=True)):
            url = await asyncio.to_thread(migrate_service, "product", database)
            own = {"PRODUCT_DATABASE_URL": url, "PRODUCT_SLOTS": slots}
            shards.append(_shard(f"product-{number}", common | own, folder, reaper, forked=forked))
        clusters, admins = [], []
        for number, (cell, slots) in enumerate(zip(CELLS, SLOTS, strict=True)):
            place, ports = folder / cell, {name: free_port() for name in REPLICAS}
            place.mkdir()
            clusters.append(
                await stack.enter_async_context(
                    cluster(
                        reaper,
                        place,
                        None,
                        postgres=OwnPostgres(reaper),
                        broker=broker,
                        addresses=Addresses(place),
                        security=security,
                        forked=forked,
                        shards=shards,
                        own_settings={name: {"ORDER_ADMIN_PORT": str(port)} for name, port in ports.items()},
                        CELL_SLOTS=slots if number else f"{slots} older",
                        CELL_SLOTS_SINCE=SINCE,
                        RELAY_TOPIC=TOPICS[number],
                        **security.settings,
                    )
                )
            )
            admins.append(f"http://127.0.0.1:{ports[REPLICAS[0]]}")
        relays = [one.processes["relay"].url for one in clusters]
        token = folder / "consumer.token"
        token.write_text(security.tokens.token("consumer", "events:read"))
        topics = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "CONSUMER_TOPICS": " ".join(f"{topic}={url}" for topic, url in zip(TOPICS, relays, strict=True)),
            "CONSUMER_RELAY_TOKEN_FILE": str(token),
        }
        records = stack.enter_context(fresh_database(server.url))
        reader = await consumer(records, common | topics, reaper, Addresses(folder), folder, forked=forked)
        routing = stack.enter_context(
            router(_backends(clusters, shards), reaper, since_milliseconds=SINCE_MILLISECONDS)
        )
        load = LoadOfCells(router_url=routing.url, tokens=security.tokens)
        stack.push_async_callback(load.close)
        await load.prepare()
        yield Cells(clusters, admins, shards, databases, reader, records, routing, security, load, pace)


def _shard(name: str, settings: Mapping[str, str], folder: Path, reaper: Reaper, *, forked: bool) -> Process:
    """Start a product shard. The cells' clusters wait until their services are ready, which they are not without it."""
    port, internal_port = free_port(), free_port()
    environment = {**settings, "PRODUCT_PORT": str(port), "PRODUCT_INTERNAL_PORT": str(internal_port)}
    command, log = [sys.executable, "-m", "services.product"], folder / f"{name}.log"
    process = Process(name, command, environment, port, log, reaper, internal_port=internal_port, forked=forked)
    process.start()
    return process


def _backends(clusters: Sequence[Cluster], shards: Sequence[Process]) -> dict[str, list[tuple[int, int]]]:
    """Return the ports of the router's backends: for clients, and that of the probes."""
    found: dict[str, list[tuple[int, int]]] = {}
    for cell, one in zip(CELLS, clusters, strict=True):
        for process in one.processes.values():
            if process.service != "relay":
                found.setdefault(f"{cell}-{process.service}", []).append(_ports(process))
    return found | {shard.name: [_ports(shard)] for shard in shards}


def _ports(process: Process) -> tuple[int, int]:
    assert process.internal_port is not None
    return process.port, process.internal_port
