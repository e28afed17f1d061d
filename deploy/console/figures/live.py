"""Which figures the page Live shows, and how each is computed from the services' metrics. Pure.

docs/metrics.md explains the metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from deploy.console.figures.readings import Readings

BY_SERVICE = ("order", "product", "coupon", "balance", "relay")
# Read from every replica. Of these, some are for the page Services only.
METRICS = (
    *("build_info", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"),
    *("http_server_active_requests", "http_connections_open", "http_connections_max"),
    *("http_server_request_duration_seconds_bucket", "http_server_request_duration_seconds_count"),
    *("batch_size_sum", "batch_size_count", "batch_waiting", "batch_waiting_max", "batch_queue_full_total"),
    *("commands_total", "sagas_ended_total", "sagas_running", "sagas_running_max", "sagas_stuck"),
    *("orders_turned_away_total", "db_client_connection_count", "db_client_connection_max"),
    *("relay_oldest_unpublished_seconds", "relay_pending_events", "relay_parked_events", "relay_watermark_lag_seconds"),
    *("relay_published_events_total", "relay_topic_partitions", "relay_outbox_partitions", "relay_shard_refused"),
    *("value_at_risk", "value_at_risk_oldest_seconds", "audit_violations", "audit_orphans_worth"),
    *("audit_last_pass_timestamp_seconds", "audit_pass_seconds"),
    *("postgres_connections", "postgres_connections_max", "host_clock_skew_seconds", "background_failed_rounds_total"),
)
CHECKOUT = {"http_request_method": "POST", "http_route": "/v1/orders"}
DURATION = "http_server_request_duration_seconds"
MILLISECONDS = 1000.0

Services = Mapping[str, Readings]
Unit = Literal["per_second", "ms", "count", "seconds"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a chart. `of` computes it."""

    name: str
    of: Callable[[Services], float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """Figures in one unit; their texts are `live.<chart>.…`."""

    name: str
    unit: Unit
    figures: tuple[Figure, ...]


def _added(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _latency(share: float) -> Callable[[Services], float | None]:
    def of(services: Services) -> float | None:
        seconds = services["order"].quantile(share, DURATION, **CHECKOUT)
        return None if seconds is None else seconds * MILLISECONDS

    return of


def _placed(*ends: str) -> Callable[[Services], float | None]:
    """Return what counts the checkouts that ended with one of these statuses of the order."""
    return lambda services: _added(
        *(
            services["order"].rate("sagas_ended_total", kind=kind, end=end)
            for kind in ("place_now", "place_later")
            for end in ends
        )
    )


def _refused(service: str, *types: str) -> Callable[[Services], float | None]:
    return lambda services: _added(
        *(services[service].rate("commands_total", type=type_, outcome="refused") for type_ in types)
    )


def _overloaded(services: Services) -> float | None:
    order = services["order"]
    return _added(order.rate("orders_turned_away_total"), order.rate("batch_queue_full_total"))


def _batch(batcher: str) -> Figure:
    return Figure(batcher, lambda services: services["order"].mean("batch_size", batcher=batcher))


CHARTS = (
    Chart(
        "checkouts",
        "per_second",
        (Figure("accepted", _placed("PAID", "PENDING_PAYMENT")), Figure("rejected", _placed("REJECTED"))),
    ),
    Chart("latency", "ms", (Figure("p50", _latency(0.5)), Figure("p99", _latency(0.99)))),
    Chart(
        "refusals",
        "per_second",
        (
            Figure("stock", _refused("product", "hold_stock")),
            Figure("coupon", _refused("coupon", "reserve_coupon", "redeem_coupon")),
            Figure("balance", _refused("balance", "debit")),
            Figure("overload", _overloaded),
        ),
    ),
    Chart("batches", "count", tuple(map(_batch, ("starts", "product", "coupon", "balance", "transitions")))),
    Chart(
        "sagas",
        "count",
        (
            Figure("running", lambda services: services["order"].total("sagas_running")),
            Figure("stuck", lambda services: services["order"].highest("sagas_stuck")),
        ),
    ),
    Chart(
        "relay",
        "seconds",
        (
            Figure("oldest", lambda services: services["relay"].highest("relay_oldest_unpublished_seconds")),
            Figure("watermark", lambda services: services["relay"].highest("relay_watermark_lag_seconds")),
        ),
    ),
)


def figures(services: Services) -> dict[str, float | None]:
    """Return all figures by `<chart>.<figure>`; None for what is not known."""
    return {f"{chart.name}.{figure.name}": figure.of(services) for chart in CHARTS for figure in chart.figures}
