"""Services: each replica with its state and version, who has which lease, and the settings and limits in effect."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import aiohttp
from aiohttp import web

from deploy.client.problems import ClientError
from deploy.client.transport import Call
from deploy.console.figures.live import BY_SERVICE
from deploy.console.figures.readings import Reading, Readings
from deploy.console.figures.replicas import Replica
from deploy.console.figures.sampler import ANSWER_SECONDS
from deploy.console.routes import Page, Route
from deploy.console.visit import Parts, Visit
from deploy.orderctl import calls
from shared.contracts.scopes import Scope

# Of each replica, where its metrics are: clients get it from no listener of theirs.
SETTINGS = "/internal/v1/settings"
# The latter four: something else answers there.
NO_ANSWER = (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, AttributeError)
State = Literal["ready", "not_ready", "away"]
# Limits and settings that the services report as metrics; per process unless a text says otherwise.
LIMITS = (
    ("order", "sagas_running_max", "what"),
    ("order", "batch_waiting_max", "batcher"),
    ("order", "postgres_connections_max", None),
    ("relay", "relay_topic_partitions", None),
    ("relay", "relay_outbox_partitions", None),
)
LIMITS_OF_ALL = (("http_connections_max", "listener"), ("db_client_connection_max", "db_client_connection_pool_name"))


@dataclass(frozen=True, slots=True)
class Status:
    """A replica. `failing`: why it is not ready, by check."""

    replica: Replica
    state: State
    failing: Mapping[str, str]
    shards: Mapping[str, str] = field(default_factory=dict)
    process_id: str = ""
    reading: Reading | None = None

    @property
    def place(self) -> str:
        """Return the replica's host and port."""
        return self.replica.url.partition("://")[2]

    def value(self, name: str) -> float | None:
        """Return the sum of a metric over its labels, as the replica last reported it."""
        return None if self.reading is None else Readings([self.reading]).total(name)

    @property
    def build(self) -> Mapping[str, str]:
        """Return what is known of its version."""
        samples = () if self.reading is None else self.reading.now.samples
        return next((dict(key.labels) for key in samples if key.name == "build_info"), {})

    @property
    def age_seconds(self) -> float | None:
        """Return how long it runs. Its start is by its own clock, so it may be off."""
        started = self.value("process_start_time_seconds")
        return None if started is None else max(0.0, time.time() - started)

    @property
    def cpu(self) -> float | None:
        """Return its share of a core."""
        return None if self.reading is None else Readings([self.reading]).rate("process_cpu_seconds_total")


class Setting(NamedTuple):
    """A setting as it would stand in the environment; None is not set."""

    variable: str
    value: str | None
    default: str | None
    differs: bool


@dataclass(frozen=True, slots=True)
class InEffect:
    """The settings of a replica, None if it did not tell. `hidden`: set as well. `refusal`: why it did not tell."""

    replica: Replica
    items: Sequence[Setting] | None = None
    hidden: Sequence[str] = ()
    refusal: str | None = None

    @property
    def differing(self) -> int:
        """Return how many differ from their defaults."""
        return sum(item.differs for item in self.items or ())


async def _show(visit: Visit) -> web.Response:
    found, versions, leases = await asyncio.gather(
        statuses(visit.parts), listed(visit, calls.VERSIONS), listed(visit, calls.LEASES)
    )
    is_refresh = "HX-Request" in visit.request.headers  # which keeps the settings as they are
    return visit.page(
        "services.html",
        services=[(name, [one for one in found if one.replica.service == name]) for name in BY_SERVICE],
        shards=sorted(
            (
                (shard, one.place, state)
                for one in found
                if one.replica.service == "relay"
                for shard, state in one.shards.items()
            ),
            key=lambda row: int(row[0]),
        ),
        versions=versions,
        leases=leases,
        places={one.process_id: one.place for one in found if one.process_id},
        settings=() if is_refresh else await in_effect(visit),
        limits=limits(found),
        ready=sum(one.state == "ready" for one in found),
    )


async def statuses(parts: Parts) -> list[Status]:
    """Ask every replica whether it is ready."""

    async def ask(replica: Replica) -> Status:
        reading = parts.sampler.readings.get(replica)
        try:
            status, body = await _get(parts, replica, "/readyz")
            failing = {name: str(said) for name, said in body["checks"].items() if said != "ok"}
            state: State = "ready" if status == 200 else "not_ready"
            shards = {str(int(shard)): str(held) for shard, held in body.get("shards", {}).items()}
            return Status(replica, state, failing, shards, str(body.get("process_id", "")), reading)
        except NO_ANSWER:
            return Status(replica, "away", {}, reading=reading)

    return await asyncio.gather(*map(ask, parts.sampler.replicas))


def limits(found: Sequence[Status]) -> list[tuple[str, str, str, float]]:
    """Return the limits in effect: service, metric, what of it, and its value."""
    rows: dict[tuple[str, str, str], float] = {}
    for one in found:
        service = one.replica.service
        wanted = {name: label for of, name, label in LIMITS if of == service} | dict(LIMITS_OF_ALL)
        for key, value in () if one.reading is None else one.reading.now.samples.items():
            if key.name in wanted:
                what = dict(key.labels).get(wanted[key.name] or "", "")
                rows[service, key.name, what] = value
    order = {name: number for number, name in enumerate(BY_SERVICE)}
    return [(*row, value) for row, value in sorted(rows.items(), key=lambda row: (order[row[0][0]], row[0]))]


async def in_effect(visit: Visit) -> list[InEffect]:
    """Ask every replica for its settings, with the operator's own token; those that differ come first."""
    headers = {} if visit.session is None else {"Authorization": f"Bearer {visit.session.token}"}

    async def ask(replica: Replica) -> InEffect:
        try:
            # A token is for these services only, so redirects are not followed.
            status, body = await _get(visit.parts, replica, SETTINGS, headers=headers, allow_redirects=False)
            if status != 200:
                return InEffect(replica, refusal=str(body["detail"]))
            items = [Setting(*map(item.__getitem__, Setting._fields)) for item in body["items"]]
            return InEffect(replica, sorted(items, key=lambda item: not item.differs), list(map(str, body["hidden"])))
        except NO_ANSWER:
            return InEffect(replica)

    return await asyncio.gather(*map(ask, visit.parts.sampler.replicas))


async def _get(parts: Parts, replica: Replica, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a replica's answer. Raises what `NO_ANSWER` has."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    url, hostname = f"{replica.url}{path}", replica.hostname
    async with parts.http.get(url, timeout=timeout, server_hostname=hostname, **options) as response:
        return response.status, await response.json(content_type=None)


async def listed(visit: Visit, call: Call) -> Sequence[Mapping[str, Any]] | None:
    """Return what the order service lists, None if it does not answer in time."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await visit.platform().admin(call)
    except (ClientError, aiohttp.ClientError, TimeoutError):
        return None
    items: Sequence[Mapping[str, Any]] = answer["items"]
    return items


PAGE = Page("services", "/services", Scope.OPS_READ, (Route("GET", "/services", _show, Scope.OPS_READ),))
