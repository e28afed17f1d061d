"""Maps each module to the tests that its sampled mutants run against, the quickest first."""

from collections.abc import Mapping, Sequence


def _tests(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/{name}" for name in names)


def _relay(*names: str) -> tuple[str, ...]:
    return _tests("integration/relay", *(f"test_{name}.py" for name in names))


def _storage(*names: str) -> tuple[str, ...]:
    return _tests("integration/relay_storage", *(f"test_{name}.py" for name in names))


def _unit(*names: str) -> tuple[str, ...]:
    return _tests("unit", *(f"{folder}/test_{name}.py" for folder, name in (name.split("/") for name in names)))


def _integration(*names: str) -> tuple[str, ...]:
    return _tests("integration", *(f"test_{name}.py" for name in names))


_PARTICIPANTS = (
    *_tests("unit", "test_participant_batches.py"),
    *_tests("integration", "product", "coupon", "balance", "fast_path"),
    *_integration("participant_locks", "participants", "retention"),
)
_IDENTITY = (*_tests("unit", "identity"), *_unit("shared/callers"), *_integration("participants"))
_HTTP = (*_unit("shared/connection", "shared/wire"), *_tests("integration", "http/test_semantics.py"))

# By path or folder; the longest that fits counts. Tests that start processes or kill brokers are left out: they take
# long, and what only they notice should have a nearer test.
NEAREST: Mapping[str, Sequence[str]] = {
    "services/relay": (*_tests("unit", "relay"), *_relay("publishing", "takeover", "operators")),
    "services/relay/access.py": (*_unit("relay/settings", "relay/clients"), *_relay("access")),
    "services/relay/api.py": _unit("relay/schema_routes"),
    "services/relay/admin": _relay("acts", "operators", "replayer"),
    "services/relay/completeness": (*_unit("relay/digests"), *_relay("history", "watermark_step", "watermark")),
    "services/relay/completeness/watermark.py": (
        *_unit("relay/announcements"),
        *_relay("watermark_step", "watermark"),
    ),
    "services/relay/domain": _tests("unit", "relay"),
    "services/relay/domain/batching.py": (
        *_unit("relay/grouping_policy", "relay/batch_pacer", "relay/adaptive_timeout"),
        *_relay("group_commit"),
    ),
    "services/relay/domain/events.py": _unit("relay/poison_isolation"),
    "services/relay/domain/shards.py": (*_unit("relay/assignment", "relay/takeover"), *_relay("takeover")),
    "services/relay/kafka/admin.py": (
        *_unit("relay/cluster", "relay/topics"),
        *_relay("takeover", "watermark", "topics"),
    ),
    "services/relay/kafka/client.py": _unit("relay/clients"),
    "services/relay/kafka/errors.py": _unit("relay/broker_errors", "relay/poison_isolation"),
    "services/relay/kafka/positions.py": (*_unit("relay/positions"), *_relay("takeover", "group_commit")),
    "services/relay/kafka/producer.py": (
        *_unit("relay/producer", "relay/publication"),
        *_relay("takeover", "group_commit", "dropping", "publishing"),
    ),
    "services/relay/kafka/records.py": _unit("relay/records"),
    "services/relay/kafka/topics.py": (*_unit("relay/topics"), *_relay("topics", "added_partitions")),
    "services/relay/outbox_cleaner.py": (*_unit("relay/outbox_cleaner"), *_storage("cleaner", "partitions")),
    "services/relay/publishing/assignment.py": (
        *_unit("relay/assignment", "relay/shard_assigner"),
        *_relay("takeover", "publishing", "competition"),
    ),
    "services/relay/publishing/bootstrap.py": (
        *_unit("relay/bootstrap"),
        *_relay("takeover", "group_commit", "topics"),
    ),
    "services/relay/publishing/failures.py": (*_unit("relay/failures", "relay/shard_publisher"), *_relay("parking")),
    "services/relay/publishing/group_commit.py": (*_unit("relay/group_commit"), *_relay("group_commit")),
    "services/relay/publishing/notifier.py": _relay("notifier", "publishing", "idling"),
    "services/relay/publishing/shard_publisher.py": (
        *_unit("relay/shard_publisher", "relay/fencing"),
        *_relay("takeover", "publishing", "parking", "group_commit"),
    ),
    "services/relay/publishing/takeover.py": (*_unit("relay/fencing"), *_relay("takeover", "group_commit")),
    "services/relay/publishing/topic_watch.py": (
        *_unit("relay/topic_watch", "relay/topics"),
        *_relay("takeover", "topics", "added_partitions"),
    ),
    "services/relay/replay": (*_unit("relay/replay_request", "relay/replay_worker"), *_relay("replayer", "replay")),
    "services/relay/store.py": (
        *_unit("relay/fencing"),
        *_storage("shard_rows", "claims", "partitions"),
        *_relay("acts", "takeover", "history"),
    ),
    "deploy/consumer": (
        *_tests("unit", "consumer"),
        *_tests(
            "integration/consumer",
            "test_guards.py",
            "test_serving.py",
            "test_bounds.py",
            "test_healing.py",
            "test_dead_letters.py",
            "test_consuming.py",
        ),
    ),
    "deploy/console": (*_tests("unit", "console"), *_tests("integration", "console")),
    "deploy/console/pages/outbox.py": (*_tests("integration", "console/test_acts.py"), *_relay("console")),
    "deploy/console/figures": _tests("unit", "console"),
    "deploy/slots": _integration("slots_that_stay", "moving_slots"),
    "services/product": (*_tests("unit", "product"), *_PARTICIPANTS),
    "services/coupon": (*_tests("unit", "coupon"), *_PARTICIPANTS),
    "services/balance": (*_tests("unit", "balance"), *_PARTICIPANTS),
    "shared": (*_tests("unit", "shared"), *_PARTICIPANTS),
    "shared/batcher.py": _unit("shared/batcher", "shared/pacing"),
    "shared/contracts": (*_unit("shared/notation", "shared/integers"), *_PARTICIPANTS),
    "shared/contracts/examples.py": _tests("unit", "test_api_documents.py"),
    "shared/contracts/problem_types": _unit("shared/problem_types", "shared/problem_pages"),
    "shared/encoding.py": _unit("shared/integers"),
    "shared/http": (*_HTTP, *_integration("participants", "deadlines"), *_unit("shared/process")),
    "shared/http/aiohttp_internals.py": (*_HTTP, *_integration("connections")),
    "shared/http/callers.py": (*_unit("shared/callers"), *_tests("integration", "coupon/test_api.py")),
    "shared/http/connection.py": (*_HTTP, *_integration("connections")),
    "shared/http/deadline.py": (*_unit("shared/deadline"), *_integration("deadlines")),
    "shared/http/idempotency.py": _unit("shared/idempotency"),
    "shared/http/openapi_answers.py": _tests("unit", "shared/test_openapi.py", "test_api_documents.py"),
    "shared/http/openapi_examples.py": _tests("unit", "shared/test_openapi.py", "test_api_documents.py"),
    "shared/http/asyncapi_page.py": _unit("shared/asyncapi_page"),
    "shared/http/docs_page.py": _unit("shared/docs_page"),
    "shared/http/pages.py": _unit("shared/problem_pages"),
    "shared/http/problem_pages.py": _unit("shared/problem_pages"),
    "shared/http/plain_listener.py": (
        *_HTTP,
        *_tests("integration", "http/test_stopping.py"),
        *_integration("connections"),
    ),
    "shared/http/readiness.py": (*_unit("shared/readiness"), *_integration("participants", "deadlines")),
    "shared/http/server.py": (
        *_unit("shared/audiences", "shared/readiness", "shared/access_log", "shared/stopping"),
        *_HTTP,
        *_integration("participants", "deadlines"),
    ),
    "shared/http/settings_route.py": _tests("unit", "test_shown_settings.py"),
    "shared/http/tls_listener.py": _tests("integration", "http/test_tls.py", "http/test_stopping.py"),
    "shared/http/wire.py": (*_HTTP, *_tests("integration", "product/test_api.py")),
    "shared/identity": _IDENTITY,
    "shared/identity/keys.py": (
        *_unit("identity/authenticator"),
        *_tests("integration", "identity/test_issuers.py"),
    ),
    "shared/ids.py": _unit("shared/ids"),
    "shared/kafka.py": (*_unit("shared/kafka", "relay/clients"), *_relay("takeover", "dropping")),
    "shared/leadership.py": (*_unit("shared/leadership"), *_relay("replayer", "watermark")),
    "shared/notation.py": _unit("shared/notation"),
    "shared/operators.py": _unit("shared/operators", "shared/command_ends"),
    "shared/pacing.py": _unit("shared/pacing"),
    "shared/participant": (*_unit("shared/protocol", "shared/gates", "shared/executor"), *_PARTICIPANTS),
    "shared/postgres/clocks.py": (*_unit("shared/database_clock", "shared/host_clock"), *_integration("host_clock")),
    "shared/postgres/connecting.py": (
        *_unit("shared/settings"),
        *_integration("former_primaries", "connecting", "database_urls"),
    ),
    "shared/postgres/connection_metrics.py": _integration("connection_metrics"),
    "shared/postgres/connections.py": (
        *_unit("shared/connections"),
        *_tests("integration", "balance/test_database_faults.py"),
        *_integration("former_primaries", "connecting", "deadlines", "host_clock"),
    ),
    "shared/postgres/database_url.py": (*_unit("shared/database_url"), *_integration("database_urls")),
    "shared/postgres/errors.py": _unit("shared/sqlstates", "shared/background"),
    "shared/postgres/migrations.py": _integration("migrations"),
    "shared/postgres/query_check.py": (*_unit("shared/query_check"), *_integration("participants")),
    "shared/postgres/sqlstates.py": _unit("shared/sqlstates"),
    "shared/process/exits.py": _unit("shared/command_ends", "shared/process"),
    "shared/process/lines.py": _unit("shared/lines"),
    "shared/process/logs.py": _unit("shared/logs"),
    "shared/process/main.py": (*_unit("shared/process"), *_integration("migrations")),
    "shared/process/settings.py": _unit("shared/settings", "relay/settings", "order/settings", "shared/stopping"),
    "shared/process/tasks.py": _unit("shared/background", "shared/concurrency"),
    "shared/process/trace.py": _unit("shared/trace"),
    "shared/pruning.py": (
        *_tests("unit", "shared/test_pruning.py", "test_background_loops.py"),
        *_integration("retention"),
    ),
    "shared/secrecy.py": (*_tests("unit", "test_shown_settings.py"), *_unit("shared/settings")),
    "shared/slots.py": _unit("shared/slots"),
    "shared/tls.py": (*_unit("shared/tls", "shared/settings"), *_tests("integration", "http/test_tls.py")),
    "shared/tracing": (*_unit("shared/tracing", "shared/trace", "shared/batcher"), *_HTTP),
}
# Not asked for: what describes data, starts a process or talks to a person; other tests read that whole.
LEFT_OUT = (
    *("*/__init__.py", "*/__main__.py", "*/metrics.py", "*/openapi.py", "*/refusals.py", "*/schemas.py"),
    *("services/*/settings.py", "deploy/*/settings.py"),
)


def tests_for(path: str) -> Sequence[str]:
    """Return the tests of a module. Raises ValueError if there are none."""
    places = [place for place in NEAREST if path == place or path.startswith(f"{place}/")]
    if not places:
        raise ValueError(f"{path} has no nearest tests")
    return NEAREST[max(places, key=len)]
