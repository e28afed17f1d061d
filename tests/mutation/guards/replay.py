"""Guards of the relay's replays."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_TESTS = "tests/integration/relay/test_replayer.py::"
_WINDOW_END = (
    "WHERE outbox_id < coalesce((SELECT min(outbox_id) FROM next WHERE status = 'PENDING'), 9223372036854775807)"
)
_WINDOW_SIZE = "WHERE bytes <= $7::bigint OR bytes = octet_length(payload)"
_replay = guards_in("services/relay/replay/worker.py", _TESTS)
_replay_sql = guards_in("services/relay/queries.sql", _TESTS)
_WINDOW = "-- name: replay_window\n"
_READ = "window = await replay_store.replay_window(connection, replay, events_max=STEP_EVENTS, bytes_max=STEP_BYTES)"

GUARDS: Sequence[Guard] = (
    _replay(
        "replay: a paused replica publishes nothing",
        "async def _publish",
        "if not self._leadership.is_certain:",
        "if False:",
        "test_paused_replica_publishes_no_step",
    ),
    _replay(
        "replay: an error does not end it",
        "async def run",
        "with supervisor:",
        "if True:",
        "test_replay_continues_after_an_error[bug]",
        "test_replay_continues_after_an_error[database]",
        "test_replay_continues_after_an_outage_of_the_broker",
    ),
    _replay(
        "replay: it waits for what is published again",
        "async def _step",
        "if waits:",
        "if False:",
        "test_replay_waits_for_an_event_that_is_published_again",
    ),
    _replay(
        "replay: lost events fail it",
        "async def _step",
        "if lost is not None:",
        "if False:",
        "test_events_removed_during_a_step_fail_the_replay",
    ),
    _replay(
        "replay: what is lost is asked last",
        "async def _step",
        f"""            {_READ}
            waits = window.position is None and await replay_store.replay_waits(connection, replay)
            # Queried last: events that are removed later were in the window.
            lost = await replay_store.lost_to_replay(connection, replay.replay_id)
""",
        f"""            lost = await replay_store.lost_to_replay(connection, replay.replay_id)
            {_READ}
            waits = window.position is None and await replay_store.replay_waits(connection, replay)
""",
        "test_events_removed_during_a_step_fail_the_replay",
    ),
    _replay(
        "replay: only the leader publishes",
        "async def _step",
        "if replay is None or not await self._leadership.renew(connection, lease_seconds):",
        "if replay is None:",
        "test_replica_without_leadership_publishes_nothing",
    ),
    _replay(
        "replay: each has a producer of its own",
        "async def _open",
        " and self._producer[0].replay_id == replay.replay_id",
        "",
        "test_each_replay_goes_into_its_own_topic_with_its_own_id",
    ),
    _replay(
        "replay: a replica that stops releases the leadership",
        "async def _give_up",
        "await self._leadership.release(self._pool)",
        "pass",
        "test_stopped_replica_releases_the_leadership",
    ),
    _replay_sql(
        "replay: a step counts from where it began",
        "-- name: advance_replay",
        "AND position = $2::bigint AND state = 'RUNNING'\nRETURNING",
        "AND $2::bigint IS NOT NULL AND state = 'RUNNING'\nRETURNING",
        "test_overtaken_or_stopped_replay_records_no_progress",
    ),
    _replay_sql(
        "replay: a stopped one gets no further",
        "-- name: advance_replay",
        " AND state = 'RUNNING'\nRETURNING",
        "\nRETURNING",
        "test_overtaken_or_stopped_replay_records_no_progress",
    ),
    _replay_sql(
        "replay: one that was overtaken does not fail",
        "-- name: fail_replay",
        " AND position = $2::bigint",
        " AND $2::bigint IS NOT NULL",
        "test_overtaken_or_stopped_replay_records_no_progress",
    ),
    _replay_sql(
        "replay: a stopped one does not fail",
        "-- name: fail_replay",
        " AND state = 'RUNNING'",
        "",
        "test_overtaken_or_stopped_replay_records_no_progress",
    ),
    _replay_sql(
        "replay: nothing behind an event that waits",
        _WINDOW,
        _WINDOW_END,
        "",
        "test_window_ends_before_an_event_that_still_waits[False]",
    ),
    _replay_sql(
        "replay: only what was published",
        _WINDOW,
        "status = 'SENT' AND",
        "",
        "test_window_leaves_out_skipped_and_later_events[False]",
    ),
    _replay_sql(
        "replay: a window has its bytes at the most",
        _WINDOW,
        _WINDOW_SIZE,
        "WHERE $7::bigint > 0",
        "test_window_is_bounded_in_bytes_and_never_empty[False]",
    ),
    _replay_sql(
        "replay: a window is never empty",
        _WINDOW,
        " OR bytes = octet_length(payload)",
        "",
        "test_window_is_bounded_in_bytes_and_never_empty[False]",
    ),
    _replay_sql(
        "replay: it ends where the topic ended",
        _WINDOW,
        "$8::uuid IS NULL AND outbox_id > $1::bigint AND outbox_id <= $2::bigint",
        "$8::uuid IS NULL AND outbox_id > $1::bigint AND $2::bigint > 0",
        "test_window_leaves_out_skipped_and_later_events[False]",
    ),
    _replay_sql(
        "replay of an order: it ends where the topic ended",
        _WINDOW,
        "order_id = $8::uuid AND outbox_id > $1::bigint AND outbox_id <= $2::bigint",
        "order_id = $8::uuid AND outbox_id > $1::bigint AND $2::bigint > 0",
        "test_window_leaves_out_skipped_and_later_events[True]",
    ),
    _replay_sql(
        "replay of an order: no other order's events",
        _WINDOW,
        "WHERE $8::uuid IS NULL AND outbox_id",
        "WHERE outbox_id",
        "test_window_leaves_out_skipped_and_later_events[True]",
    ),
    _replay_sql(
        "replay: what is not published yet is not what it ends with",
        "-- name: create_replay",
        "WHERE status = 'SENT' ",
        "",
        "test_replay_begins_at_the_last_published_event",
    ),
    _replay_sql(
        "leadership: one replica at a time",
        "-- name: hold_leadership",
        "WHERE relay.duties.lease_until < clock_timestamp() OR relay.duties.holder = excluded.holder",
        "",
        "test_replica_without_leadership_publishes_nothing",
    ),
    _replay_sql(
        "leadership: a lease that is over can be taken",
        "-- name: hold_leadership",
        "relay.duties.lease_until < clock_timestamp() OR ",
        "",
        "test_replica_without_leadership_publishes_nothing",
    ),
)
