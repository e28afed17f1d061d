"""Replicas of the services with public calls, behind a balancer, with the settings of production: jwt mode."""

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from joserfc.jwk import ECKey

from deploy.issuer.__main__ import Issuer
from deploy.local.configuration import AUDIENCE, PARTICIPANTS, jwt_environment
from deploy.local.folder import write_secrets
from tests.faults.process import Process
from tests.infrastructure.balancers import Balancer, Ports
from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import free_ports

ISSUER = "https://issuer.test"
SCOPES = "catalog:write coupons:write accounts:charge"
SERVICES = (*PARTICIPANTS, "order")  # the relay has no calls for customers
STOP_SECONDS = 25.0  # what is promised of a whole stop
# Customers order more often than people.
SETTINGS = {"ORDER_SUBJECT_STARTS_PER_MINUTE": "1000000", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Platform:
    """The running replicas by name, such as `order-1`; `url` is the balancer's."""

    url: str
    processes: Mapping[str, Process]
    issuer: Issuer

    def token(self, user: str) -> str:
        """Return a token of a user who may also create what is sold, and charge accounts."""
        return self.issuer.token(user, SCOPES)

    async def replace(self, name: str) -> float:
        """Stop a replica, start it again and wait until it is ready, as an operator does; return the stop's seconds."""
        process = self.processes[name]
        began = time.monotonic()
        process.send(signal.SIGTERM)
        status = await process.ended(STOP_SECONDS)
        seconds = time.monotonic() - began
        assert status == 0, process.log.read_text()[-2000:]
        process.start()
        await process.ready()
        return seconds


@asynccontextmanager
async def platform(
    reaper: Reaper,
    folder: Path,
    database: Database,
    balancer: Balancer,
    replicas: Mapping[str, int],
    *,
    forked: bool = False,
) -> AsyncIterator[Platform]:
    """Start so many replicas of each service, and the balancer before them. `forked`: whether as forks.

    The order service calls a participant with several replicas through the balancer, and a single one directly.
    """
    names = [f"{service}-{number}" for service in SERVICES for number in range(1, replicas[service] + 1)]
    numbers = iter(free_ports(2 * len(names)))
    ports = {name: Ports(next(numbers), next(numbers)) for name in names}
    issuer = Issuer(ECKey.generate_key("P-256", auto_kid=True), ISSUER, AUDIENCE)
    keys = folder / "keys.json"
    keys.write_text(json.dumps(issuer.key_set()))
    for participant in PARTICIPANTS:
        write_secrets(folder / participant)
    environment = os.environ | SETTINGS | jwt_environment(ISSUER, str(keys), {}, lambda name: folder / name)
    for participant in PARTICIPANTS:
        single = f"http://127.0.0.1:{ports[f'{participant}-1'].internal}"
        several = replicas[participant] > 1
        environment[f"ORDER_{participant.upper()}_URL"] = balancer.internal_url(participant) if several else single
    for service in SERVICES:
        environment[f"{service.upper()}_DATABASE_URL"] = migrate_service(service, database)
    processes = {}
    for name in names:
        service, prefix = name.partition("-")[0], name.partition("-")[0].upper()
        own = {f"{prefix}_PORT": str(ports[name].clients), f"{prefix}_INTERNAL_PORT": str(ports[name].internal)}
        command = [sys.executable, "-m", f"services.{service}"]
        log = folder / f"{name}.log"
        made_of = (name, command, environment | own, ports[name].clients, log, reaper)
        processes[name] = Process(*made_of, internal_port=ports[name].internal, forked=forked)
        processes[name].start()
    try:
        for process in processes.values():
            await process.ready()
        with balancer.running(ports):
            yield Platform(balancer.url, processes, issuer)
    finally:
        for process in processes.values():
            if process.running is not None and process.running.poll() is None:
                process.send(signal.SIGKILL)
        for process in processes.values():
            await process.ended()
