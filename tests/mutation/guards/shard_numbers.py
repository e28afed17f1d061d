"""Guards of the number of the relay's shards: it is set while a database is new, and everything reads it."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_TESTS = "tests/integration/relay_storage/test_number_of_shards.py::"
_recorded = guards_in("services/order/migrations/0002b.relay_shards.sql", _TESTS)
_rights = guards_in("services/order/migrations/post-apply.sql", _TESTS)
_rows = guards_in("services/relay/migrations/0009.more_shards.sql", _TESTS)
_KEPT = "test_database_of_an_earlier_version_keeps_four_shards_and_is_not_rewritten"

GUARDS: Sequence[Guard] = (
    _recorded(
        "shards: an outbox that is in use keeps its column",
        "v_is_new boolean",
        "AND relkind = 'p'",
        "AND false",
        f"{_KEPT}[set to more, without a relay]",
    ),
    _recorded(
        "shards: a relay that counted four keeps them",
        "AND NOT EXISTS",
        "relname = 'shards'",
        "false",
        "test_relay_that_was_migrated_first_has_four_shards_and_so_has_the_outbox",
    ),
    _rights(
        "shards: another number than the recorded one is refused",
        "DECLARE",
        "v_wanted <> v_shards",
        "false",
        "test_new_database_has_the_chosen_number_everywhere_and_keeps_it[a role each-None]",
    ),
    _rows(
        "shards: the relay may be migrated before the order service",
        "-- The order service's schema",
        "nspname = 'orders' AND relname = 'relay_shards'",
        "true",
        "test_relay_that_was_migrated_first_has_four_shards_and_so_has_the_outbox",
    ),
    guards_in("deploy/consumer/relay.py", "tests/integration/consumer/test_relay_access.py::")(
        "shards: a relay that does not say how many has four",
        "async def digests",
        'body.get("shards", SHARDS_MIN)',
        'body["shards"]',
        "test_replaced_certificate_and_token_are_used_in_the_next_call",
    ),
    guards_in("services/relay/completeness/digests.py", "tests/unit/relay/test_digests.py::")(
        "shards: one beyond the last is refused",
        "def _check_shard",
        "shard is not None and shard >= status.shards",
        "False",
        "test_shard_beyond_the_last_one_is_refused[digests]",
        "test_shard_beyond_the_last_one_is_refused[events of a bucket]",
    ),
)
