"""Guards of the reference consumer's process: its stop, its probes, where it reads on, and how it compares minutes."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT, _INTEGRATION = "tests/unit/consumer/", "tests/integration/consumer/"
_SERVING, _IN_PROCESS = f"{_UNIT}test_serving.py::", f"{_INTEGRATION}test_serving.py::"
_api = guards_in("deploy/consumer/api.py", f"{_UNIT}test_readiness.py::")
_compare = guards_in("deploy/consumer/completeness.py", f"{_UNIT}test_completeness.py::")
_proof = guards_in("deploy/consumer/completeness.py", f"{_UNIT}test_proof.py::")
_begins = guards_in("deploy/consumer/completeness.py", f"{_INTEGRATION}test_cell_verdicts.py::")
_cells = guards_in("deploy/consumer/verification.py", f"{_INTEGRATION}test_cell_verdicts.py::")
_decode = guards_in("deploy/consumer/verification.py", f"{_UNIT}test_completeness.py::")
_fill = guards_in("deploy/consumer/verification.py", f"{_INTEGRATION}test_guards.py::")
_read = guards_in("deploy/consumer/reader.py", f"{_UNIT}test_reader.py::")
_serve = guards_in("deploy/consumer/__main__.py")

GUARDS: Sequence[Guard] = (
    _api(
        "consumer: probes add no load to a slow database",
        "async def _readyz",
        "if self._round is None or self._round.done():",
        "if True:",
        "test_concurrent_probes_share_one_run_also_if_one_of_them_gives_up",
    ),
    _api(
        "consumer: a probe that gives up does not end the others'",
        "async def _readyz",
        "asyncio.shield(self._round)",
        "self._round",
        "test_concurrent_probes_share_one_run_also_if_one_of_them_gives_up",
    ),
    _api(
        "consumer: a probe is answered before it gives up",
        "async def _result",
        "async with asyncio.timeout(CHECK_SECONDS):",
        "if True:",
        "test_probe_of_a_check_that_hangs_is_answered_in_time",
    ),
    _api(
        "consumer: a process that stops is not ready",
        "async def _readyz",
        "if self._stop.announced:",
        "if False:",
        "test_consumer_that_stops_is_not_ready",
    ),
    _serve(
        "consumer: work that uses all connections does not make it unready",
        "async def serve",
        "async with probes.connection() as db:",
        "async with pool.connection() as db:",
        f"{_IN_PROCESS}test_work_that_uses_all_connections_does_not_make_the_consumer_unready",
    ),
    _serve(
        "consumer: nothing is pruned while a clock is wrong",
        "async def prune",
        "await check_clock(db)",
        "pass",
        f"{_IN_PROCESS}test_nothing_is_pruned_while_the_clocks_disagree",
    ),
    _serve(
        "consumer: a loop that dies stops the process",
        "async def serve",
        "task.add_done_callback(lambda _: stop.set())",
        "pass",
        f"{_SERVING}test_loop_that_dies_stops_the_process",
    ),
    _serve(
        "consumer: a stop that hangs is bounded",
        "async def end_late",
        "os._exit(Exit.STOPPED_LATE)",
        "pass",
        f"{_SERVING}test_stop_that_hangs_ends_the_process_with_its_log_written",
    ),
    _serve(
        "consumer: the log of a stop that hangs is written",
        "async def end_late",
        "log_writer.flush()",
        "pass",
        f"{_SERVING}test_stop_that_hangs_ends_the_process_with_its_log_written",
    ),
    _serve(
        "consumer: a stop waits for no comparison",
        "async def serve",
        "started[name].cancel()",
        "pass",
        f"{_SERVING}test_stop_cancels_the_loops_and_lets_the_reader_complete_its_batch",
    ),
    _serve(
        "consumer: the reader completes its batch before a stop",
        "async def serve",
        ' - {"reader"}',
        "",
        f"{_SERVING}test_stop_cancels_the_loops_and_lets_the_reader_complete_its_batch",
    ),
    _serve(
        "consumer: another process leads immediately after a stop",
        "async def serve",
        "await leader.leave()",
        "pass",
        f"{_INTEGRATION}test_healing.py::test_stop_does_not_wait_for_a_comparison",
    ),
    _serve(
        "consumer: a stop does not need the database",
        "async def leave",
        "with suppress(Unavailable):",
        "with suppress():",
        f"{_SERVING}test_stop_cancels_the_loops_and_lets_the_reader_complete_its_batch",
    ),
    _compare(
        "consumer: nothing is compared before all was read",
        "class Topic",
        " or not reached(watermark, positions)",
        "",
        "test_no_minute_is_compared_before_a_watermark_is_reached[not reached]",
    ),
    _compare(
        "consumer: minutes that the relay removed do not stop the comparison",
        "async def _compare_new",
        "start = gone.oldest",
        "raise",
        "test_comparison_continues_after_minutes_that_the_relay_removed",
    ),
    _compare(
        "consumer: a minute that the relay removed goes behind the others",
        "async def _compare_again",
        'await store.put_bucket(db, self._topic, row["bucket"], row["shard"], row["state"], row["findings"])',
        "pass",
        "test_minute_that_the_relay_removed_stays_as_it_is_and_does_not_stop_the_next",
    ),
    _proof(
        "consumer: nothing is proven before every topic is",
        "def proven_over",
        " if len(times) == len(topics) else None",
        " if times else None",
        "test_proof_over_topics_is_the_earliest_and_names_who_is_behind[times3-expected3]",
    ),
    _proof(
        "consumer: a topic without events does not keep the others from being proven",
        "async def _begin",
        "start, doubted = minute_of(up_to), True",
        "return up_to",
        "test_topic_without_events_does_not_keep_the_others_from_being_proven",
    ),
    _proof(
        "consumer: an earlier minute of any topic is missing",
        "def proven_over",
        "earliest = min(times)",
        "earliest = max(times)",
        "test_no_published_event_is_missing_before_the_time_that_is_proven",
    ),
    _cells(
        "consumer: a true event on another cell's topic belongs to the relay that has it",
        "async def _verdict",
        "if sender := _sender(claim, topic, histories):",
        "if sender := None:",
        "test_copied_event_belongs_to_the_topic_of_the_relay_that_has_it",
    ),
    _begins(
        "consumer: an event that is stored while a topic's comparison begins is doubted",
        "async def _begin",
        "await store.wait_for_events(db)",
        "pass",
        "test_event_that_is_stored_while_the_comparison_begins_is_doubted",
    ),
    _cells(
        "consumer: a withdrawn event may be of any relay",
        "async def verify",
        "named if topics else set(relays)",
        "named",
        "test_all_relays_are_asked_for_an_order_that_no_topic_names",
    ),
    _cells(
        "consumer: the relay that an order has left is asked before an event is given up",
        "async def _ask",
        "if not given_up or not next_ones:",
        "if True:",
        "test_earlier_events_of_a_moved_order_come_from_the_relay_that_it_left",
    ),
    _compare(
        "consumer: an open minute is not judged",
        "def judge",
        'if not item["closed"]:',
        "if False:",
        "test_only_a_closed_minute_is_judged",
    ),
    _compare(
        "consumer: the stored findings are bounded",
        "async def _compare(",
        "found[:FINDINGS_MAX]",
        "found",
        "test_stored_findings_of_a_minute_are_bounded_and_the_log_has_their_count",
    ),
    _compare(
        "consumer: an event that is not published is not missing",
        "async def _repair",
        ' if item["sha256"]}',
        "}",
        "test_event_that_is_not_published_is_neither_missing_nor_decoded",
    ),
    _decode(
        "consumer: an event that is not published is not decoded",
        "def decode_all",
        'if item["sha256"]:',
        "if True:",
        "test_event_that_is_not_published_is_neither_missing_nor_decoded",
    ),
    _fill(
        "consumer: an event that was given up is not awaited",
        "def missing(",
        ' if item["status"] != GIVEN_UP}',
        "}",
        "test_events_that_will_never_come_are_given_up",
    ),
    _read(
        "consumer: no other topic is read",
        "async def _open",
        "(\\.watermarks)?\\Z",
        "(\\.watermarks)?",
        "test_only_the_topic_and_its_watermarks_are_subscribed_to",
    ),
    _read(
        "consumer: a stored position within the topic is kept",
        "async def _resume",
        "if not begins[one] <= positions[one.partition] <= ends[one]",
        "if not begins[one] < positions[one.partition] < ends[one]",
        "test_only_a_position_that_the_topic_lacks_is_reset[5]",
        "test_only_a_position_that_the_topic_lacks_is_reset[9]",
    ),
    _read(
        "consumer: records before the stored position is known are dropped",
        "async def _read_batch",
        "if partition not in unknown}",
        "if True}",
        "test_records_fetched_before_the_stored_position_was_known_are_dropped",
    ),
    _read(
        "consumer: a partition that went meanwhile is not resumed",
        "async def _resume",
        "if one in consumer.assignment():",
        "if True:",
        "test_partition_that_went_while_its_position_was_read_is_not_resumed",
    ),
    _read(
        "consumer: the lag is measured before a commit that may fail",
        "async def _read_batch",
        "self._measure(consumer)  # also",
        "pass  # also",
        "test_lag_is_measured_although_nothing_can_be_stored",
    ),
    _read(
        "consumer: without news there is no transaction",
        "async def _read_batch",
        "if moves and moves.keys()",
        "if moves.keys()",
        "test_reader_without_news_asks_neither_broker_nor_database",
    ),
    _read(
        "consumer: a position of a partition that went meanwhile is not committed",
        "async def _read_batch",
        " and moves.keys() <= self._known.keys()",
        "",
        "test_position_of_a_partition_that_went_meanwhile_is_not_committed",
    ),
    _read(
        "consumer: a deleted topic's position is not awaited for ever",
        "async def _position",
        "async with asyncio.timeout(POSITION_SECONDS):",
        "if True:",
        "test_position_of_a_deleted_topic_is_not_awaited_for_ever",
    ),
    _read(
        "consumer: a watermark of another topic is not announced",
        "def _announce",
        ' or body["topic"] != topic',
        "",
        "test_only_a_readable_watermark_of_the_topic_is_announced[of another topic]",
    ),
)
