"""What each dashboard shows: panels, each with its queries."""

from collections.abc import Sequence
from dataclasses import dataclass

V1 = 'http_route=~"/v1/.+"'
DURATION = "http_server_request_duration_seconds"
PARTICIPANTS = 'job=~"product|coupon|balance"'


@dataclass(frozen=True, slots=True)
class Query:
    """A query for Prometheus, and how its lines are labelled."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph. `unit` is Grafana's name of it."""

    title: str
    unit: str
    queries: Sequence[Query]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A dashboard: its file's name, its title, and its panels by row."""

    name: str
    title: str
    rows: dict[str, Sequence[Panel]]


def panel(title: str, unit: str, *queries: tuple[str, str], description: str = "") -> Panel:
    """Return a panel; each query is an expression and its legend."""
    return Panel(title, unit, [Query(*query) for query in queries], description)


def quantile(share: float, histogram: str, by: str) -> str:
    """Return the query of a quantile of a histogram."""
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({histogram}[$__rate_interval])))"


def median_and_p99(histogram: str, by: str, of: str = "") -> tuple[tuple[str, str], tuple[str, str]]:
    """Return both quantiles with their legends, which begin with `of`."""
    return (quantile(0.5, histogram, by), f"{of}median"), (quantile(0.99, histogram, by), f"{of}p99")


def rate(counter: str, by: str) -> str:
    """Return the query of a counter's rate."""
    return f"sum by ({by}) (rate({counter}[$__rate_interval]))"


def failed_share(window: str) -> str:
    """Return the query of the share of calls that failed, by service; 0 for a service whose calls never fail."""
    calls = f"sum by (job) (rate({DURATION}_count{{{V1}}}[{window}]))"
    failed = f'sum by (job) (rate({DURATION}_count{{{V1}, http_response_status_code=~"5.."}}[{window}]))'
    return f"({failed} or 0 * {calls}) / {calls}"


POOL = "job, db_client_connection_pool_name"
USED = f'sum by ({POOL}) (db_client_connection_count{{db_client_connection_state="used"}})'
POST = '{http_route="/v1/orders", http_request_method="POST"}'

CHECKOUT = Page(
    "checkout",
    "Checkout",
    {
        "Answers": [
            panel("Calls", "reqps", (rate(f"{DURATION}_count{{{V1}}}", "job"), "{{job}}")),
            panel(
                "Answers of the order service by status",
                "reqps",
                (
                    rate(f'{DURATION}_count{{job="order", {V1}}}', "http_response_status_code"),
                    "{{http_response_status_code}}",
                ),
            ),
            panel(
                "Share of failed calls, of five minutes and of an hour",
                "percentunit",
                (failed_share("5m"), "{{job}}, 5 minutes"),
                (failed_share("1h"), "{{job}}, an hour"),
                description="The objective is 0.1%.",
            ),
            panel(
                "Time of a call",
                "s",
                *median_and_p99(f"{DURATION}_bucket{{{V1}}}", "job", "{{job}}, "),
            ),
        ],
        "Orders": [
            panel("Orders that ended", "ops", (rate("sagas_ended_total", "kind, end"), "{{kind}}: {{end}}")),
            panel(
                "Time of a POST on orders",
                "s",
                *median_and_p99(f"{DURATION}_bucket{POST}", "job"),
            ),
            panel("Orders turned away", "ops", (rate("orders_turned_away_total", "instance"), "{{instance}}")),
            panel("Requests being handled", "short", ("sum by (job) (http_server_active_requests)", "{{job}}")),
        ],
        "Processes": [
            panel("Replicas that answer", "short", ("sum by (job) (up)", "{{job}}")),
            panel(
                "Builds",
                "short",
                ("count by (service, version, revision) (build_info)", "{{service}} {{version}} {{revision}}"),
            ),
            panel("CPU", "percentunit", (rate("process_cpu_seconds_total", "job"), "{{job}}")),
            panel("Memory", "bytes", ("sum by (job) (process_resident_memory_bytes)", "{{job}}")),
        ],
    },
)
SAGA = Page(
    "saga",
    "Sagas",
    {
        "Now": [
            panel(
                "Sagas that run, and how many may",
                "short",
                ("sum(sagas_running)", "running"),
                ("sum(sagas_running_with_coupon)", "with a coupon"),
                ('sum(sagas_running_max{what="new_order"})', "limit for new orders"),
            ),
            panel(
                "Sagas with products of a shard",
                "short",
                ("sum by (participant) (sagas_running_of_shard)", "{{participant}}"),
                ('sum(sagas_running_max{what="new_order_of_shard"})', "limit for new orders of a shard"),
                description="Only where there are several product shards. A shard at its limit is down or slow.",
            ),
            panel("Oldest saga", "s", ("max(value_at_risk_oldest_seconds)", "age")),
            panel(
                "Stuck, or of an unknown version",
                "short",
                ("max(sagas_stuck)", "stuck"),
                ("max(sagas_unknown_version)", "unknown version"),
            ),
            panel("Value at risk", "short", ("sum by (what) (max by (cell, what) (value_at_risk))", "{{what}}")),
        ],
        "Course": [
            panel(
                "Time of a saga",
                "s",
                *median_and_p99("saga_seconds_bucket", "kind", "{{kind}}, "),
            ),
            panel(
                "Time until a command's outcome is known",
                "s",
                (quantile(0.99, "command_certainty_seconds_bucket", "command"), "{{command}}, p99"),
            ),
            panel(
                "Taken over, or transitions lost",
                "ops",
                (rate("sagas_taken_over_total", "job"), "taken over"),
                (rate("saga_transitions_lost_total", "job"), "lost"),
            ),
            panel("Longest overdue order", "s", ("max(orders_overdue_oldest_seconds)", "past its expiry")),
        ],
        "Batches": [
            panel("Items in a batch", "short", (quantile(0.5, "batch_size_bucket", "batcher"), "{{batcher}}, median")),
            panel(
                "Items that wait, as a share of the maximum",
                "percentunit",
                ("max by (job, batcher) (batch_waiting / batch_waiting_max)", "{{job}} {{batcher}}"),
            ),
        ],
    },
)
PARTICIPANTS_PAGE = Page(
    "participants",
    "Participants",
    {
        "Calls of the order service": [
            panel(
                "Time of a call",
                "s",
                *median_and_p99("participant_call_seconds_bucket", "participant", "{{participant}}, "),
            ),
            panel(
                "Failed calls",
                "ops",
                (
                    rate("participant_call_failures_total", "participant")
                    + " or 0 * "
                    + rate("participant_call_seconds_count", "participant"),
                    "{{participant}}",
                ),
            ),
        ],
        "Commands": [
            panel(
                "Commands by outcome", "ops", (rate("commands_total", "job, type, outcome"), "{{type}}: {{outcome}}")
            ),
            panel(
                "Items in a batch",
                "short",
                (quantile(0.5, f"batch_size_bucket{{{PARTICIPANTS}}}", "job"), "{{job}}, median"),
            ),
        ],
        "Database": [
            panel(
                "Connections in use, as a share of the pool",
                "percentunit",
                (
                    f"{USED} / sum by ({POOL}) (db_client_connection_max)",
                    "{{job}}: {{db_client_connection_pool_name}}",
                ),
            ),
            panel(
                "Callers that wait for a connection",
                "short",
                (
                    "sum by (job, db_client_connection_pool_name) (db_client_connection_pending_requests)",
                    "{{job}}: {{db_client_connection_pool_name}}",
                ),
            ),
            panel(
                "Connections of the server",
                "short",
                ("max(postgres_connections)", "open"),
                ("sum(db_client_connection_max)", "the services may open"),
                ("max(postgres_connections_max)", "maximum"),
            ),
            panel(
                "HTTP connections, as a share of the maximum",
                "percentunit",
                ("max by (job, listener) (http_connections_open / http_connections_max)", "{{listener}}"),
            ),
        ],
    },
)
RELAY = Page(
    "relay",
    "Relay and consumer",
    {
        "Events": [
            panel("Events published", "ops", (rate("relay_published_events_total", "shard"), "shard {{shard}}")),
            panel("Events that wait", "short", ("max by (shard) (relay_pending_events)", "shard {{shard}}")),
            panel(
                "Oldest event that waits",
                "s",
                ("max(relay_oldest_unpublished_seconds)", "by the relay"),
                ("max(outbox_oldest_unpublished_seconds)", "by the order service"),
            ),
            panel(
                "Parked events, refused shards and topics",
                "short",
                ("sum(max by (shard) (relay_parked_events))", "parked"),
                ("sum(max by (shard) (relay_shard_refused)) or vector(0)", "refused shards"),
                ("max(relay_topics_refused)", "topics refused"),
            ),
        ],
        "Batches": [
            panel(
                "Events in a batch",
                "short",
                *median_and_p99("relay_batch_events_bucket", "job"),
            ),
            panel(
                "Time of a transaction",
                "s",
                *median_and_p99("relay_transaction_seconds_bucket", "job"),
            ),
            panel("Lag of the watermark", "s", ("max(relay_watermark_lag_seconds)", "lag")),
            panel(
                "Partitions of the outbox",
                "short",
                ("max(relay_outbox_partitions)", "all"),
                ("max(relay_outbox_partitions_kept)", "kept beyond their time"),
            ),
        ],
        "Disk of Postgres": [
            panel(
                "Database and outbox",
                "bytes",
                ("max(postgres_database_bytes)", "database"),
                ("max(postgres_outbox_bytes)", "outbox"),
                ("max(postgres_wal_kept_bytes)", "WAL kept for slots"),
            ),
            panel("WAL written", "Bps", ("max(rate(postgres_wal_written_bytes[$__rate_interval]))", "WAL")),
        ],
        "Reference consumer": [
            panel(
                "Records not yet processed",
                "short",
                ("max by (partition) (consumer_lag_records)", "partition {{partition}}"),
            ),
            panel("Age of what is proven complete", "s", ("max(consumer_proven_lag_seconds)", "proven")),
        ],
    },
)
AUDITED = "time() - audit_at_work_timestamp_seconds"
BOOKS = Page(
    "books",
    "Books",
    {
        "Audit": [
            panel(
                "Findings of the last audit",
                "short",
                (
                    f"max by (kind) (audit_violations and on (instance) ({AUDITED} < 120))",
                    "{{kind}}",
                ),
            ),
            panel(
                "Time since the audit's last progress",
                "s",
                ("time() - max(audit_at_work_timestamp_seconds)", "progress"),
                ("time() - max(audit_last_pass_timestamp_seconds)", "end of a pass"),
            ),
            panel("Time of a pass", "s", ("max(audit_pass_seconds)", "pass")),
            panel("Value of all orphans", "short", ("max by (participant) (audit_orphans_worth)", "{{participant}}")),
        ],
        "Removed rows": [
            panel("Rows past their retention", "ops", (rate("rows_pruned_total", "job, what"), "{{job}}: {{what}}")),
            panel(
                "Background loops that fail",
                "ops",
                (rate("background_failed_rounds_total", "job, loop, cause"), "{{job}}: {{loop}}, {{cause}}"),
            ),
        ],
        "Time and keys": [
            panel(
                "Clocks against the database's",
                "s",
                ("max by (job, instance) (host_clock_skew_seconds)", "{{instance}}"),
            ),
            panel(
                "Time until certificates expire",
                "s",
                ("min by (job, file) (tls_certificate_valid_seconds)", "{{job}}: {{file}}"),
            ),
            panel("Age of the token issuer's keys", "s", ("max by (job) (issuer_keys_age_seconds)", "{{job}}")),
        ],
    },
)
PAGES = (CHECKOUT, SAGA, PARTICIPANTS_PAGE, RELAY, BOOKS)
