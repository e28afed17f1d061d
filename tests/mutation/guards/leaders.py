"""Guards of the relay's work that one leader does for all replicas, and of the digests: see also relay.py."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/relay/"
_replay = guards_in("services/relay/replay/worker.py", f"{_UNIT}test_replay_worker.py::")
_replay_api = guards_in("services/relay/replay/api.py", f"{_UNIT}test_replay_request.py::")
_digests = guards_in("services/relay/completeness/digests.py", f"{_UNIT}test_digests.py::")
_watermark = guards_in("services/relay/completeness/watermark.py", f"{_UNIT}test_announcements.py::")
_cleaner = guards_in("services/relay/outbox_cleaner.py", f"{_UNIT}test_outbox_cleaner.py::")
_cleaning = guards_in("services/relay/outbox_cleaner.py", "tests/integration/relay_storage/test_cleaner.py::")
_ONE_BY_ONE = "test_refused_step_is_published_again_one_by_one_and_then_fails_the_replay"
_REMOVED = "test_bucket_whose_events_are_removed_while_it_is_read_is_gone"
_OWN_TOPICS = "test_replay_into_a_topic_of_the_relay_or_of_kafka_is_refused"

GUARDS: Sequence[Guard] = (
    _replay(
        "replay: the producer of a failed step is dropped",
        "async def _round",
        "            await self._drop()\n            raise",
        "            raise",
        "test_producer_of_a_failed_step_is_dropped",
        "test_producer_that_could_not_be_opened_is_dropped",
    ),
    _replay(
        "replay: no producer without the leadership",
        "async def _step",
        "await self._drop()",
        "pass",
        "test_producer_is_dropped_without_a_replay_or_the_leadership[no leadership]",
    ),
    _replay(
        "replay: a producer that was refused is dropped",
        "except EventsRefused as error:",
        "await self._drop()",
        "pass",
        _ONE_BY_ONE,
    ),
    _replay(
        "replay: the producer of the previous replay is dropped",
        "async def _open",
        "await self._drop()",
        "pass",
        "test_producer_of_the_previous_replay_is_dropped",
    ),
    _replay(
        "replay: the replay after a failed one is not one by one",
        "async def _publish",
        "self._one_by_one = not self._one_by_one",
        "self._one_by_one = True",
        _ONE_BY_ONE,
    ),
    _replay(
        "replay: a refused step is published one by one",
        "async def _publish",
        "self._one_by_one = not self._one_by_one",
        "pass",
        _ONE_BY_ONE,
    ),
    _replay(
        "replay: only the refused step is published one by one",
        "async def _publish",
        "        self._one_by_one = False\n",
        "",
        "test_step_after_a_successful_one_is_published_together_again",
    ),
    _replay_api(
        "replay: never into the relay's own topics",
        "def _check_topic",
        "topic in own or ",
        "",
        *(f"{_OWN_TOPICS}[orders.v1{kind}]" for kind in ("", ".positions", ".watermarks")),
    ),
    _digests(
        "digests: first the watermark, then the events",
        "async def digests",
        """            closed = up_to is not None and bucket + BUCKET <= up_to
            for row in await queries.digest(connection, bucket, bucket + BUCKET, query.shard):
""",
        """            rows = await queries.digest(connection, bucket, bucket + BUCKET, query.shard)
            up_to = (await queries.watermark(connection)).up_to
            closed = up_to is not None and bucket + BUCKET <= up_to
            for row in rows:
""",
        "test_bucket_that_the_watermark_passes_while_it_is_read_is_not_closed",
    ),
    _digests(
        "digests: removed events would be missing",
        "async def digests",
        "await _check_kept(connection, query.start)  #",
        "pass  #",
        f"{_REMOVED}[digests]",
    ),
    _digests(
        "digests: removed events would be missing from a bucket's",
        "after[0] if after else NO_ID, query.limit + 1\n",
        "await _check_kept(connection, query.bucket)",
        "pass",
        f"{_REMOVED}[events of a bucket]",
    ),
    _digests(
        "digests: an answer takes a bounded time",
        "async def digests",
        " and monotonic() - started < DIGESTS_SECONDS",
        "",
        "test_answer_that_takes_long_ends_early_and_names_where_to_go_on",
    ),
    _watermark(
        "watermark: a repetition is no time after the change",
        "moves = max(",
        "(up_to > announced.up_to)",
        "(up_to >= announced.up_to)",
        "test_repeated_announcement_does_not_count_as_a_time_after_the_change",
    ),
    _watermark(
        "watermark: the times after a change are announced",
        "async def _announce",
        "moves = MOVES_AFTER_CHANGE",
        "moves = 0",
        "test_repeated_announcement_does_not_count_as_a_time_after_the_change",
    ),
    _cleaning(
        "cleaner: the last cleaning counts from the start",
        "async def run",
        "metrics.LAST_CLEANING.set_to_current_time()",
        "pass",
        "test_replica_without_leadership_does_not_clean",
    ),
    _cleaner(
        "cleaner: a partition in use is dropped later",
        "async def clean(",
        "except asyncpg.LockNotAvailableError:",
        "except ZeroDivisionError:",
        "test_drop_of_a_partition_in_use_is_postponed_and_the_outbox_measured",
    ),
)
