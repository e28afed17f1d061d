"""Guards of the relay's group commit and of its watermark."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_INTEGRATION = "tests/integration/relay/"
_UNIT = "tests/unit/relay/"
_group = guards_in("services/relay/publishing/group_commit.py", f"{_UNIT}test_group_commit.py::")

GROUP_COMMIT = (
    _group(
        "group: a producer that failed is dropped",
        "async def _publish",
        "        except BaseException:\n            await self._drop(producer)\n            raise",
        "        except BaseException:\n            raise",
        "test_producer_that_failed_to_publish_is_dropped_and_another_opened[failure0-BrokerFailed]",
    ),
    _group(
        "group: a producer that was refused is dropped",
        "async def _publish",
        "            await self._drop(producer)\n            raise GroupRefused",
        "            raise GroupRefused",
        "test_producer_that_failed_to_publish_is_dropped_and_another_opened[failure1-GroupRefused]",
    ),
    _group(
        "group: a late failure drops no successor",
        "async def _drop",
        "if self._producer is producer:",
        "if True:",
        "test_late_failure_of_a_producer_does_not_drop_its_successor",
    ),
    _group(
        "group: record batches get smaller",
        "async def _publish",
        "if refused.too_large_together:",
        "if False:",
        "test_record_batches_get_smaller_only_if_they_were_too_large_as_a_whole[True]",
    ),
    _group(
        "group: no smaller record batches for one large event",
        "async def _publish",
        "if refused.too_large_together:",
        "if True:",
        "test_record_batches_get_smaller_only_if_they_were_too_large_as_a_whole[False]",
    ),
    _group(
        "group: a shard that is gone is not answered",
        "def answer",
        "if not self.outcome.done():",
        "if True:",
        "test_shard_that_gave_up_waiting_is_answered_without_harm",
    ),
    _group(
        "group: a shard that is gone is not failed",
        "def fail",
        "if not self.outcome.done():",
        "if True:",
        "test_shard_that_gave_up_waiting_is_answered_without_harm",
    ),
    _group(
        "group: all shards wait for one attempt",
        "async def _opened",
        "if self._opening is None:",
        "if True:",
        "test_all_shards_wait_for_one_attempt_and_fail_with_it",
    ),
    _group(
        "group: an attempt outlives its shard",
        "async def _opened",
        "await asyncio.shield(self._opening)",
        "await self._opening",
        "test_an_attempt_outlives_a_shard_that_is_stopped",
    ),
    _group(
        "group: a failed attempt is dropped",
        "async def _open(self)",
        "            await self._drop(producer)\n            raise",
        "            raise",
        "test_the_group_ends_only_once_a_failed_attempt_is_dropped",
    ),
    _group(
        "group: a failed attempt is looked at",
        "def _tried_to_open",
        "if not opening.cancelled():",
        "if False:",
        "test_failed_attempt_without_a_waiter_is_not_reported_by_asyncio",
    ),
    _group(
        "group: an id of its own for each process",
        "self.transactional_id = ",
        "-{secrets.token_hex(4)}",
        "",
        "test_group_of_a_replica_started_again_has_another_transactional_id",
    ),
)

_watermark = guards_in("services/relay/completeness/watermark.py", f"{_INTEGRATION}test_watermark.py::")
_watermark_sql = guards_in(
    "services/relay/migrations/0008.watermark_after_a_restore.sql", f"{_INTEGRATION}test_watermark_step.py::"
)
_ADVANCE = "CREATE OR REPLACE FUNCTION relay.advance_watermark"

WATERMARK = (
    _watermark_sql(
        "watermark: a mark of another cluster is marked again",
        _ADVANCE,
        " AND v_was.mark_xid < pg_snapshot_xmax(pg_current_snapshot())",
        " AND v_was.mark_at IS NOT NULL",
        "test_watermark_continues_after_a_restore_into_a_cluster_with_lower_ids",
    ),
    _watermark(
        "watermark: a paused replica announces nothing",
        "async def _announce",
        "if not self._leadership.is_certain:",
        "if False:",
        "test_paused_replica_announces_nothing",
    ),
    _watermark(
        "watermark: an error does not end it",
        "async def run",
        "with supervisor:",
        "if True:",
        "test_watermark_continues_after_an_error[database]",
        "test_watermark_continues_after_an_error[broker]",
    ),
    _watermark(
        "watermark: a replica that stops releases the leadership",
        "async def run",
        "await self._give_up()",
        "pass",
        "test_stopped_replica_releases_leadership_although_its_broker_is_down",
    ),
    _watermark(
        "watermark: the lease lasts over the next slow call",
        "async def _once",
        " + (IDLE_RATIO + 1) * self._call_seconds",
        "",
        "test_lease_lasts_over_the_next_slow_call",
    ),
    _watermark(
        "watermark: the last announcement counts no more without the leadership",
        "if advance is None:",
        "self._announced = None",
        "pass",
        "test_replica_without_leadership_closes_clients_and_announces_again_later",
    ),
    _watermark(
        "watermark: one that is not announced does not end the lag",
        "def _report_lag",
        "0.0 if self._unannounced_since is None else now - self._unannounced_since",
        "0.0",
        "test_lag_grows_while_nothing_can_be_announced",
    ),
    _watermark(
        "watermark: no clients without the leadership",
        "if advance is None:",
        "await self._close()",
        "pass",
        "test_replica_without_leadership_closes_clients_and_announces_again_later",
    ),
    _watermark(
        "watermark: no transaction under way hides an offset",
        "async def _open",
        'isolation_level="read_uncommitted"',
        'isolation_level="read_committed"',
        "test_offsets_include_an_open_transaction",
        real_broker=True,
    ),
    _watermark_sql(
        "watermark: the timestamp is older than its transaction's id",
        _ADVANCE,
        "IF pg_current_xact_id_if_assigned() IS NOT NULL THEN",
        "IF false THEN",
        "test_watermark_cannot_advance_in_a_transaction_that_has_an_id",
    ),
    _watermark_sql(
        "watermark: transactions that may have written have ended",
        _ADVANCE,
        "pg_snapshot_xmin(pg_current_snapshot()) > v_was.mark_xid AND NOT",
        "NOT",
        "test_watermark_waits_for_a_transaction_that_may_have_written_before_it",
    ),
    _watermark_sql(
        "watermark: those with a higher id as well",
        _ADVANCE,
        "pg_snapshot_xmin(pg_current_snapshot())",
        "pg_snapshot_xmax(pg_current_snapshot())",
        "test_running_transaction_with_a_higher_id_also_holds_the_watermark",
    ),
    _watermark_sql(
        "watermark: it never goes back",
        _ADVANCE,
        "greatest(up_to, mark_at)",
        "mark_at",
        "test_watermark_does_not_go_back_with_the_clock",
    ),
    _watermark_sql(
        "watermark: one replica has the leadership",
        _ADVANCE,
        "(holder IS NULL OR holder = p_holder OR lease_expires_at < v_now)",
        "true",
        "test_leader_keeps_leadership_until_release_or_lease_expiry",
    ),
    _watermark_sql(
        "watermark: of two concurrent calls one counts",
        _ADVANCE,
        "\n        AND epoch = v_was.epoch AND mark_at IS NOT DISTINCT FROM v_was.mark_at",
        "",
        "test_two_concurrent_advances_mark_one_time",
    ),
)

GUARDS: Sequence[Guard] = (*GROUP_COMMIT, *WATERMARK)
