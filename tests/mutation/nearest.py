"""Which tests are nearest to a module, the quickest first: those that a sampled mutant of it is held against."""

from collections.abc import Mapping, Sequence

_UNIT, _INTEGRATION = "tests/unit", "tests/integration"
_RELAY = f"{_INTEGRATION}/relay"
_CONSUMER = (f"{_UNIT}/consumer", f"{_INTEGRATION}/consumer/test_dead_letters.py")
_PARTICIPANTS = (f"{_INTEGRATION}/test_participants.py", f"{_INTEGRATION}/test_retention.py")

# By path or folder; the longest that fits counts. Tests that start processes or kill brokers are left out: they take
# long, and what only they notice should have a nearer test.
NEAREST: Mapping[str, Sequence[str]] = {
    "services/relay": (f"{_UNIT}/relay", f"{_RELAY}/test_publishing.py", f"{_RELAY}/test_takeover.py"),
    "services/relay/access.py": (f"{_UNIT}/relay/test_settings.py",),
    "services/relay/admin": (f"{_RELAY}/test_acts.py", f"{_RELAY}/test_operators.py", f"{_RELAY}/test_replayer.py"),
    "services/relay/completeness": (f"{_RELAY}/test_history.py", f"{_RELAY}/test_watermark.py"),
    "services/relay/completeness/digests.py": (f"{_RELAY}/test_history.py",),
    "services/relay/completeness/watermark.py": (f"{_RELAY}/test_watermark.py",),
    "services/relay/domain": (f"{_UNIT}/relay",),
    "services/relay/domain/batching.py": (
        *(f"{_UNIT}/relay/test_grouping_policy.py", f"{_UNIT}/relay/test_batch_pacer.py"),
        f"{_UNIT}/relay/test_adaptive_timeout.py",
    ),
    "services/relay/domain/events.py": (f"{_UNIT}/relay/test_poison_isolation.py",),
    "services/relay/domain/shards.py": (
        *(f"{_UNIT}/relay/test_assignment.py", f"{_UNIT}/relay/test_takeover.py"),
        f"{_RELAY}/test_takeover.py",
    ),
    "services/relay/kafka/client.py": (
        *(f"{_UNIT}/relay/test_clients.py", f"{_RELAY}/test_takeover.py"),
        f"{_RELAY}/test_dropping.py",
    ),
    "services/relay/kafka/records.py": (f"{_UNIT}/relay/test_records.py",),
    "services/relay/outbox_cleaner.py": (f"{_INTEGRATION}/relay_storage/test_cleaner.py",),
    "services/relay/publishing/group_commit.py": (
        *(f"{_UNIT}/relay/test_group_commit.py", f"{_RELAY}/test_group_commit.py"),
    ),
    "services/relay/publishing/failures.py": (f"{_UNIT}/relay/test_shard_publisher.py",),
    "services/relay/publishing/shard_publisher.py": (
        f"{_UNIT}/relay/test_shard_publisher.py",
        *(f"{_RELAY}/test_publishing.py", f"{_RELAY}/test_takeover.py"),
        *(f"{_RELAY}/test_parking.py", f"{_RELAY}/test_group_commit.py"),
    ),
    "services/relay/publishing/takeover.py": (f"{_RELAY}/test_takeover.py",),
    "services/relay/replay": (f"{_RELAY}/test_replayer.py", f"{_RELAY}/test_replay.py"),
    "deploy/consumer": (*_CONSUMER, f"{_INTEGRATION}/consumer/test_consuming.py"),
    "services/product": (f"{_UNIT}/product", f"{_INTEGRATION}/product", f"{_INTEGRATION}/at_once", *_PARTICIPANTS),
    "services/coupon": (f"{_UNIT}/coupon", f"{_INTEGRATION}/coupon", f"{_INTEGRATION}/at_once", *_PARTICIPANTS),
    "services/balance": (f"{_UNIT}/balance", f"{_INTEGRATION}/balance", f"{_INTEGRATION}/at_once", *_PARTICIPANTS),
    "shared": (f"{_UNIT}/shared", f"{_INTEGRATION}/product", f"{_INTEGRATION}/balance", *_PARTICIPANTS),
    "shared/background.py": (f"{_UNIT}/shared/test_background.py",),
    "shared/batcher.py": (f"{_UNIT}/shared/test_batcher.py", f"{_UNIT}/shared/test_pacing.py"),
    "shared/concurrency.py": (f"{_UNIT}/shared/test_concurrency.py",),
    "shared/connecting.py": (f"{_INTEGRATION}/test_connecting.py", f"{_INTEGRATION}/test_connections.py"),
    "shared/database_url.py": (f"{_UNIT}/shared/test_database_url.py", f"{_INTEGRATION}/test_database_urls.py"),
    "shared/http": (
        *(f"{_UNIT}/shared/{name}" for name in ("test_connection.py", "test_deadline.py", "test_idempotency.py")),
        *(f"{_UNIT}/shared/test_readiness.py", f"{_INTEGRATION}/http/test_semantics.py"),
        *(f"{_INTEGRATION}/test_deadlines.py", f"{_INTEGRATION}/product/test_api.py"),
    ),
    "shared/http/wire.py": (f"{_UNIT}/shared/test_wire.py", f"{_INTEGRATION}/http/test_semantics.py"),
    "shared/integers.py": (f"{_UNIT}/shared/test_integers.py",),
    "shared/lines.py": (f"{_UNIT}/shared/test_lines.py",),
    "shared/logs.py": (f"{_UNIT}/shared/test_logs.py",),
    "shared/migrations.py": (f"{_INTEGRATION}/test_migrations.py",),
    "shared/notation.py": (f"{_UNIT}/shared/test_notation.py",),
    "shared/operators.py": (f"{_UNIT}/shared/test_operators.py",),
    "shared/pacing.py": (f"{_UNIT}/shared/test_pacing.py",),
    "shared/participant": (
        *(f"{_UNIT}/shared/test_protocol.py", f"{_UNIT}/shared/test_gates.py", f"{_INTEGRATION}/product"),
        *(f"{_INTEGRATION}/at_once", *_PARTICIPANTS),
    ),
    "shared/pruning.py": (f"{_INTEGRATION}/test_retention.py",),
    "shared/sqlstates.py": (f"{_UNIT}/shared/test_sqlstates.py",),
    "shared/trace.py": (f"{_UNIT}/shared/test_trace.py",),
}
# Not asked for: what describes data, starts a process or talks to a person; other tests read that whole.
LEFT_OUT = ("__init__.py", "__main__.py", "settings.py", "metrics.py", "schemas.py", "refusals.py", "openapi.py")


def nearest(path: str) -> Sequence[str]:
    """Return the tests of a module. Raises ValueError if there are none."""
    places = [place for place in NEAREST if path == place or path.startswith(f"{place}/")]
    if not places:
        raise ValueError(f"{path} has no nearest tests")
    return NEAREST[max(places, key=len)]
