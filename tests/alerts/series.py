"""What a healthy product reports for twenty minutes, and for each alert what it reports instead.

Values are promtool's: `0+30x40` is 0 and then 40 times 30 more, a sample every 30 seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MINUTES = 20
NOW = "0+30x40"  # promtool's clock begins at 0
POST = 'job="order", instance="order-1", http_request_method="POST", http_route="/v1/orders"'
DURATION = "http_server_request_duration_seconds"
ANSWERED = f'{DURATION}_count{{{POST}, http_response_status_code="201"}}'
FAILED = f'{DURATION}_count{{{POST}, http_response_status_code="503"}}'
SOON = f'{DURATION}_bucket{{{POST}, http_response_status_code="201", le="1.0"}}'
ORDER = '{job="order", instance="order-1"}'
OTHER_ORDER = '{job="order", instance="order-2"}'
RELAY = '{job="relay", instance="relay-1"}'
SHARD = '{job="relay", instance="relay-1", shard="2"}'
POOL = '{job="product", instance="product-1", db_client_connection_pool_name="product"}'
LISTENER = '{job="product", instance="product-1", listener="product"}'
CERTIFICATE = '{job="coupon", instance="coupon-1", file="/tls/coupon.pem"}'
CONSUMER = '{job="consumer", instance="consumer-1"}'


def still(value: float) -> str:
    """Return a value that doesn't change."""
    return f"{value}+0x40"


def up(job: str, instance: str = "1") -> str:
    """Return the series of a target."""
    return f'up{{job="{job}", instance="{job}-{instance}"}}'


def of_shard(number: int) -> str:
    """Return the labels of an order process' series for a product shard."""
    return f'{{job="order", instance="order-1", participant="product-{number}"}}'


NORMAL: Mapping[str, str] = {
    **{up(job): still(1) for job in ("order", "product", "coupon", "balance", "relay", "consumer")},
    up("order", "2"): still(1),
    ANSWERED: "0+300x40",  # ten a second
    FAILED: still(3),  # once, before
    SOON: "0+300x40",
    f"sagas_stuck{ORDER}": still(0),
    f"value_at_risk_oldest_seconds{ORDER}": still(0.2),
    f"sagas_unknown_version{ORDER}": still(0),
    f"sagas_running{ORDER}": still(300),
    f"sagas_running_with_coupon{ORDER}": still(200),
    'sagas_running_max{job="order", instance="order-1", what="new_order"}': still(512),
    'sagas_running_max{job="order", instance="order-1", what="new_order_with_coupon"}': still(384),
    f"sagas_running_of_shard{of_shard(0)}": still(250),
    f"sagas_running_of_shard{of_shard(1)}": still(120),
    'sagas_running_max{job="order", instance="order-1", what="new_order_of_shard"}': still(384),
    f"orders_turned_away_total{ORDER}": still(7),
    'participant_call_failures_total{job="order", instance="order-1", participant="coupon"}': still(2),
    'batch_queue_full_total{job="product", instance="product-1", batcher="commands"}': still(4),
    f"orders_overdue_oldest_seconds{ORDER}": still(3),
    'audit_violations{job="order", instance="order-1", kind="orphan"}': still(0),
    f"audit_at_work_timestamp_seconds{ORDER}": NOW,
    # The other replica audited long ago. What it found then counts no more.
    'audit_violations{job="order", instance="order-2", kind="orphan"}': still(5),
    f"audit_at_work_timestamp_seconds{OTHER_ORDER}": still(1),
    f"outbox_oldest_unpublished_seconds{ORDER}": still(0.1),
    f"relay_oldest_unpublished_seconds{SHARD}": still(0.1),
    f"relay_parked_events{SHARD}": still(0),
    f"relay_shard_refused{SHARD}": still(0),
    f"relay_topics_refused{RELAY}": still(0),
    f"relay_topic_doubts{RELAY}": still(0),
    f"relay_topic_partitions{RELAY}": still(4),
    'relay_topic_partitions{job="relay", instance="relay-2"}': still(4),
    f"relay_watermark_lag_seconds{RELAY}": still(2),
    f"relay_outbox_last_cleaning_timestamp_seconds{RELAY}": NOW,
    f"relay_outbox_partitions_kept{RELAY}": still(0),
    f"relay_listening{RELAY}": still(1),
    f"db_client_connection_pending_requests{POOL}": still(0),
    f"db_client_connection_max{POOL}": still(4),
    f"postgres_connections{ORDER}": still(40),
    f"postgres_connections_max{ORDER}": still(100),
    f"http_connections_open{LISTENER}": still(60),
    f"http_connections_max{LISTENER}": still(4096),
    'http_connections_refused_total{job="product", instance="product-1"}': still(0),
    'postgres_reconnects_total{job="order", instance="order-1", session="order starts"}': still(1),
    'postgres_settings_lost_total{job="order", instance="order-1", session="order starts"}': still(1),
    f"postgres_database_bytes{ORDER}": f"{20 * 2**30}+2000x40",
    f"postgres_wal_kept_bytes{ORDER}": still(0),
    f"tls_certificate_valid_seconds{CERTIFICATE}": still(30 * 86400),
    'tls_files_unusable{job="coupon", instance="coupon-1", files="/tls/coupon.pem"}': still(0),
    f"issuer_keys_age_seconds{ORDER}": still(200),
    f"host_clock_skew_seconds{ORDER}": still(-0.2),
    'background_failed_rounds_total{job="relay", instance="relay-1", loop="cleaner", cause="bug"}': still(1),
    'background_failed_rounds_total{job="relay", instance="relay-1", loop="cleaner", cause="transient"}': "0+2x40",
    f"log_lines_lost_total{ORDER}": still(12),
    'consumer_lag_records{job="consumer", instance="consumer-1", partition="0"}': still(40),
    f"consumer_proven_lag_seconds{CONSUMER}": still(90),
    f"consumer_dead_letters{CONSUMER}": still(0),
    f"consumer_forged_events{CONSUMER}": still(0),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A fault: what is reported instead, and the alerts that fire then, all of them."""

    name: str
    instead: Mapping[str, str]
    alerts: frozenset[str]
    without: frozenset[str] = field(default_factory=frozenset)  # series that nobody reports


def case(alert: str, instead: Mapping[str, str], *also: str, without: frozenset[str] = frozenset()) -> Case:
    """Return a case in which `alert` fires, and `also` those."""
    return Case(f"{alert} {next(iter(instead), '')}", instead, frozenset({alert, *also}), without)


FIRING = (
    case("ErrorBudgetFast", {FAILED: "0+6x40"}, "ErrorBudgetSlow"),  # 2% of the calls
    case("ErrorBudgetSlow", {FAILED: "0+2x40"}),  # 0.7%
    case("AnswersSlow", {SOON: "0+294x40"}),
    case("TargetDown", {up("order", "2"): still(0)}),
    case("ServiceDown", {}, without=frozenset({up("relay")})),
    case("ServiceDown", {up("product"): still(0)}, "TargetDown"),
    case("SagasStuck", {f"sagas_stuck{ORDER}": still(1)}),
    case("SagasOld", {f"value_at_risk_oldest_seconds{ORDER}": "0+30x40"}),
    case("SagasUnknownVersion", {f"sagas_unknown_version{ORDER}": still(2)}),
    case("SagasNearLimit", {f"sagas_running{ORDER}": still(450)}),
    case("SagasNearLimit", {f"sagas_running_with_coupon{ORDER}": still(380)}),
    case("SagasNearLimit", {f"sagas_running_of_shard{of_shard(1)}": still(380)}),
    case("SagasNearLimit", {f"orders_turned_away_total{ORDER}": "0+2x40"}),
    case(
        "ParticipantUnavailable",
        {'participant_call_failures_total{job="order", instance="order-1", participant="coupon"}': "0+2x40"},
    ),
    case("QueueFull", {'batch_queue_full_total{job="product", instance="product-1", batcher="commands"}': "0+2x40"}),
    case("ExpiryBehind", {f"orders_overdue_oldest_seconds{ORDER}": "0+30x40"}),
    case("AuditFindings", {'audit_violations{job="order", instance="order-1", kind="orphan"}': still(1)}),
    case("AuditSilent", {f"audit_at_work_timestamp_seconds{ORDER}": still(600)}),
    case("EventsUnpublished", {f"outbox_oldest_unpublished_seconds{ORDER}": "0+30x40"}),
    case("EventsUnpublished", {f"relay_oldest_unpublished_seconds{SHARD}": "0+30x40"}),
    case("EventsParked", {f"relay_parked_events{SHARD}": still(1)}),
    case("ShardRefused", {f"relay_shard_refused{SHARD}": still(1)}),
    case("TopicRefused", {f"relay_topics_refused{RELAY}": still(1)}),
    case("TopicDoubtful", {f"relay_topic_doubts{RELAY}": still(2)}),
    case("TopicDoubtful", {f"relay_topic_partitions{RELAY}": still(8)}),
    case("WatermarkBehind", {f"relay_watermark_lag_seconds{RELAY}": "0+30x40"}),
    case("OutboxNotCleaned", {f"relay_outbox_last_cleaning_timestamp_seconds{RELAY}": still(300)}),
    case("OutboxGrows", {f"relay_outbox_partitions_kept{RELAY}": still(1)}),
    case("RelayNotListening", {f"relay_listening{RELAY}": still(0)}),
    case("PoolExhausted", {f"db_client_connection_pending_requests{POOL}": still(3)}),
    case("ConnectionBudget", {f"postgres_connections{ORDER}": still(90)}),
    case("ConnectionBudget", {f"db_client_connection_max{POOL}": still(101)}),
    case("HttpConnectionsNearLimit", {f"http_connections_open{LISTENER}": still(3500)}),
    case("HttpConnectionsNearLimit", {'http_connections_refused_total{job="product", instance="product-1"}': "0+2x40"}),
    case(
        "DatabaseReconnects",
        {'postgres_reconnects_total{job="order", instance="order-1", session="order starts"}': "0+2x40"},
    ),
    case(
        "SettingsLost",
        {'postgres_settings_lost_total{job="order", instance="order-1", session="order starts"}': "0+1x40"},
    ),
    case("PostgresDisk", {f"postgres_database_bytes{ORDER}": f"{20 * 2**30}+{2**25}x40"}),  # 32 MiB in 30 seconds
    case("PostgresDisk", {f"postgres_wal_kept_bytes{ORDER}": f"0+{2**25}x40"}),
    case("WalKept", {f"postgres_wal_kept_bytes{ORDER}": still(11 * 2**30)}),
    case("CertificateExpires", {f"tls_certificate_valid_seconds{CERTIFICATE}": f"{7 * 86400 + 600}-30x40"}),
    case(
        "CertificateUnusable",
        {'tls_files_unusable{job="coupon", instance="coupon-1", files="/tls/coupon.pem"}': still(1)},
    ),
    case("IssuerKeysOld", {f"issuer_keys_age_seconds{ORDER}": "0+30x40"}),
    case("ClockWrong", {f"host_clock_skew_seconds{ORDER}": still(-6)}),
    case(
        "LoopFails",
        {'background_failed_rounds_total{job="relay", instance="relay-1", loop="cleaner", cause="bug"}': "0+2x40"},
    ),
    case("LogLinesLost", {f"log_lines_lost_total{ORDER}": "0+2x40"}),
    case(
        "ConsumerBehind", {'consumer_lag_records{job="consumer", instance="consumer-1", partition="0"}': "9000+200x40"}
    ),
    case("ConsumerBehind", {f"consumer_proven_lag_seconds{CONSUMER}": "0+30x40"}),
    case("ConsumerRefuses", {f"consumer_dead_letters{CONSUMER}": still(1)}),
    case("ConsumerRefuses", {f"consumer_forged_events{CONSUMER}": still(1)}),
)
SILENT = (
    Case("a healthy product", {}, frozenset()),
    Case("a night with few calls", {ANSWERED: "0+2x40", SOON: "0+2x40", FAILED: "0+0x20 1+0x19"}, frozenset()),
    Case("a saga that is undone at its third try", {f"sagas_stuck{ORDER}": "0+0x38 1+0x1"}, frozenset()),
    Case(
        "a relay that has run for long takes the cleaning over",
        {
            f"relay_outbox_last_cleaning_timestamp_seconds{RELAY}": "0+30x36 stale _x3",
            'relay_outbox_last_cleaning_timestamp_seconds{job="relay", instance="relay-2"}': still(1),
        },
        frozenset(),
    ),
    Case("a restart of a replica", {up("order", "2"): "1+0x38 0+0x1"}, frozenset()),
)
