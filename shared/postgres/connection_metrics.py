"""Reports the database connections of this process, by the names of the semantic conventions for pools."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

POOL, STATE = "db_client_connection_pool_name", "db_client_connection_state"


class Use(NamedTuple):
    """How many connections are open now, how many of them are used, and how many callers wait for one."""

    open: int
    used: int
    waiting: int = 0


class Connections(Collector):
    """Asks the owners of connections, only when somebody reads the metrics: the use of a connection costs nothing."""

    def __init__(self) -> None:
        self._owners: dict[object, tuple[str, int, Callable[[], Use]]] = {}

    @contextmanager
    def of(self, name: str, connections_max: int, use: Callable[[], Use]) -> Iterator[None]:
        """Report an owner during the body.

        `name`: what its connections are for, as Postgres knows it by their application_name. `connections_max`: how
        many it may open.
        """
        owner = object()
        self._owners[owner] = (name, connections_max, use)
        try:
            yield
        finally:
            del self._owners[owner]

    def collect(self) -> Iterator[Metric]:
        """Return the sums over the owners of each name."""
        most = GaugeMetricFamily("db_client_connection_max", "Connections that may be opened", labels=[POOL])
        count = GaugeMetricFamily("db_client_connection_count", "Open connections", labels=[POOL, STATE])
        waiting = GaugeMetricFamily(
            "db_client_connection_pending_requests", "Callers that wait for a connection", labels=[POOL]
        )
        owners = list(self._owners.values())
        for name in sorted({name for name, _, _ in owners}):
            uses = [use() for known, _, use in owners if known == name]
            used = sum(use.used for use in uses)
            most.add_metric([name], sum(connections_max for known, connections_max, _ in owners if known == name))
            count.add_metric([name, "used"], used)
            count.add_metric([name, "idle"], sum(use.open for use in uses) - used)
            waiting.add_metric([name], sum(use.waiting for use in uses))
        yield from (most, count, waiting)


CONNECTIONS = Connections()
REGISTRY.register(CONNECTIONS)
