"""Guards of the reference consumer: what a process that was overtaken, or an event that came twice, can't change."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_TESTS = "tests/integration/consumer/test_guards.py::"
_query = guards_in("deploy/consumer/queries.sql", _TESTS)
_baseline = guards_in("deploy/consumer/baseline.py", "tests/integration/consumer/test_baseline.py::")
_reader = guards_in("deploy/consumer/reader.py", "tests/integration/consumer/test_reader_guards.py::")
_intake = guards_in("deploy/consumer/intake.py", _TESTS)
_runtime = guards_in("deploy/consumer/runtime.py", _TESTS)
_store = guards_in("deploy/consumer/store.py", _TESTS)
_UNIT, _HEALING = "tests/unit/consumer/", "tests/integration/consumer/test_healing.py::"
_completeness = guards_in("deploy/consumer/completeness.py", "tests/integration/consumer/test_cells.py::")
_resume = guards_in("deploy/consumer/reader.py", "tests/integration/consumer/test_consuming.py::")
_apply = guards_in("deploy/consumer/intake.py", f"{_UNIT}test_rules.py::")
_run = guards_in("deploy/consumer/runtime.py", f"{_UNIT}test_runtime.py::")
_pool = guards_in("deploy/consumer/runtime.py", _HEALING)
_APART = "    # In a statement of its own, after the locks.\n"
_LOCK = "await store.lock_streams(db, order_ids)"
_READ = "await store.received(db, order_ids, [event.event_id for event in events])"
_STREAMS = "streams = {order_id: Stream(sequence, orders.get(order_id)) for order_id, sequence in positions.items()}"

GUARDS: Sequence[Guard] = (
    _query(
        "consumer: an overtaken process moves no position",
        "-- name: move_positions",
        " AND o.position = t.expected",
        "",
        "test_position_moves_only_from_where_it_is_expected",
    ),
    _query(
        "consumer: a partition is begun once",
        "-- name: begin_partitions",
        "DO NOTHING",
        "DO UPDATE SET position = excluded.position",
        "test_partition_that_was_begun_is_not_begun_again",
    ),
    _query(
        "consumer: streams are begun in order of id",
        "-- name: begin_streams",
        " ORDER BY order_id",
        "",
        "test_streams_are_begun_in_order_of_id",
    ),
    _query(
        "consumer: streams are locked in order of id",
        "-- name: lock_streams",
        " ORDER BY order_id",
        "",
        "test_streams_are_locked_in_order_of_id",
    ),
    _query(
        "consumer: streams of a batch are locked",
        "-- name: lock_streams",
        " FOR UPDATE",
        "",
        "test_streams_of_a_batch_are_locked_against_other_processes",
    ),
    _query(
        "consumer: a gap that another process asks for is left to it",
        "-- name: orders_to_ask_for",
        " SKIP LOCKED",
        "",
        "test_gap_is_asked_for_again_only_after_a_while",
    ),
    _query(
        "consumer: minutes that cannot be compared keep no other from its turn",
        "-- name: buckets_to_compare",
        "ORDER BY compared_at, bucket",
        "ORDER BY bucket",
        "test_minute_with_a_new_event_is_compared_immediately_and_others_later",
    ),
    _query(
        "consumer: the lead is not taken from a leader",
        "-- name: take_leadership",
        "\nWHERE d.holder = excluded.holder OR d.lease_until < clock_timestamp()",
        "",
        "test_leader_leads_until_it_leaves_or_its_lease_has_expired",
    ),
    _query(
        "consumer: only the leader leaves",
        "-- name: leave_leadership",
        "holder = $1::text",
        "$1::text IS NOT NULL",
        "test_leader_leads_until_it_leaves_or_its_lease_has_expired",
    ),
    _query(
        "consumer: what waits is not pruned",
        "-- name: prune_inbox",
        " AND state <> 'WAITING'",
        "",
        "test_waiting_events_are_never_pruned_and_others_once_old",
    ),
    _reader(
        "consumer: a batch of an overtaken process is dropped",
        "async def _commit",
        "raise PositionLostError",
        "pass",
        "test_batch_of_a_partition_that_another_process_moved_on_is_dropped",
    ),
    _reader(
        "consumer: after a commit whose end is unknown the position is asked for",
        "async def _commit",
        "self._known.clear()  # whether",
        "pass  # whether",
        "test_position_is_asked_again_after_a_commit_whose_end_is_unknown",
    ),
    _reader(
        "consumer: no position is trusted after partitions went",
        "def on_partitions_revoked",
        "self._known.clear()",
        "pass",
        "test_no_position_is_trusted_after_partitions_changed_hands[on_partitions_revoked]",
    ),
    _reader(
        "consumer: no position is trusted after partitions came",
        "def on_partitions_assigned",
        "self._known.clear()",
        "pass",
        "test_no_position_is_trusted_after_partitions_changed_hands[on_partitions_assigned]",
    ),
    _runtime(
        "consumer: a paused process loses its transaction",
        "async def transaction",
        "await db.execute(\"SET LOCAL idle_in_transaction_session_timeout = '3s'\")",
        "pass",
        "test_paused_process_is_cut_off_from_its_transaction",
    ),
    _intake(
        "consumer: what was received is read after the locks",
        "async def take",
        f"positions, orders = {_LOCK}\n    {_STREAMS}\n{_APART}    rows = {_READ}",
        f"rows = {_READ}\n    positions, orders = {_LOCK}\n    {_STREAMS}",
        "test_event_taken_by_two_concurrent_processes_counts_once",
    ),
    _baseline(
        "consumer: no baseline is declared beside a consumer that notes minutes as compared",
        "async def declare",
        "if not await store.take_leadership(db, DUTY, HOLDER, LEASE_SECONDS):",
        "if False:",
        "test_baseline_is_refused_if_a_consumer_starts_meanwhile",
    ),
    _resume(
        "consumer: the newest watermark is read again after a restart",
        "async def _resume",
        "if topic not in self._topics:",
        "if False:",
        "test_watermark_that_was_read_and_not_compared_is_read_again_after_a_restart",
    ),
    _completeness(
        "consumer: all relays are asked before an event is withdrawn that one does not know",
        "async def _repair",
        "if len(self._relays) > 1:",
        "if False:",
        "test_event_under_the_topic_of_another_cell_finds_its_own[topic]",
    ),
    _apply(
        "consumer: sales are locked in one order",
        "async def apply",
        "sales = sorted(",
        "sales = list(",
        "test_sales_are_written_in_order_of_currency",
    ),
    _run(
        "consumer: a library's record that can't be rendered harms nobody",
        "def emit",
        "suppress(Exception)",
        "suppress()",
        "test_library_record_that_cannot_be_rendered_stops_no_logging",
    ),
    _run(
        "consumer: a loop's failures are logged once",
        "async def repeat",
        "if kind not in known:",
        "if True:",
        "test_failures_of_a_loop_are_logged_once_until_they_change_or_end",
    ),
    _run(
        "consumer: a loop notices soon that what it needs is back",
        "async def repeat",
        ", PAUSE_MAX_SECONDS)",
        ", 1e9)",
        "test_pauses_of_a_failing_loop_have_a_bound",
    ),
    _run(
        "consumer: a silent host does not keep the next from its turn",
        "async def _connect",
        "staggered_race(openings, NEXT_HOST_SECONDS)",
        "staggered_race(openings, None)",
        "test_of_several_hosts_the_first_that_takes_writes_is_used",
    ),
    _run(
        "consumer: of several hosts one that takes writes is used",
        "async def _open(",
        "await check_writable(connection)",
        "pass",
        "test_of_several_hosts_the_first_that_takes_writes_is_used",
    ),
    _pool(
        "consumer: a connection in doubt is dropped",
        "async def connection",
        "connection.terminate()",
        "pass",
        "test_connection_of_a_body_that_failed_is_not_lent_again",
    ),
    _pool(
        "consumer: the other connections to a former primary are dropped",
        "async def connection",
        "await self._pool.expire_connections()",
        "pass",
        "test_one_connection_to_such_a_server_is_enough_to_drop_the_others",
    ),
    _store(
        "consumer: one process migrates at a time",
        "async def migrate",
        'await db.execute("LOCK TABLE platform.migrations IN SHARE ROW EXCLUSIVE MODE", timeout=MIGRATE_SECONDS)',
        "pass",
        "test_process_that_migrates_waits_for_another_one",
    ),
    _run(
        "consumer: a clock that is wrong by minutes is noticed",
        "async def check_clock",
        "if abs(ahead_seconds) > SKEW_MAX_SECONDS:",
        "if False:",
        "test_clocks_that_differ_by_more_disagree_with_the_direction_named[7200.0-7200 s behind]",
    ),
)
