"""Guards of a replica of the relay: when it looks for events and at its shards, and whom a take-over fences."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_wake = guards_in("services/relay/publishing/notifier.py", "tests/unit/relay/test_notifier.py::")
_listen = guards_in("services/relay/publishing/notifier.py", "tests/integration/relay/test_notifier.py::")
_assigner = guards_in("services/relay/publishing/assignment.py", "tests/unit/relay/test_shard_assigner.py::")
_takeover = guards_in("services/relay/publishing/takeover.py", "tests/unit/relay/test_fencing.py::")
_client = guards_in("services/relay/kafka/client.py", "tests/unit/relay/test_clients.py::")
_group = guards_in("services/relay/publishing/group_commit.py", "tests/unit/relay/test_group_commit.py::")
_fencing = guards_in("services/relay/publishing/shard_publisher.py", "tests/unit/relay/test_fencing.py::")
_store = guards_in("services/relay/store.py", "tests/unit/relay/test_fencing.py::")
_bootstrap = guards_in("services/relay/publishing/bootstrap.py", "tests/unit/relay/test_bootstrap.py::")
_watch = guards_in("services/relay/publishing/topic_watch.py", "tests/unit/relay/test_topic_watch.py::")
_assign = guards_in("services/relay/domain/shards.py", "tests/unit/relay/test_assignment.py::")
_failures = guards_in("services/relay/publishing/failures.py", "tests/unit/relay/test_shard_publisher.py::")
_events = guards_in("services/relay/domain/events.py", "tests/unit/relay/test_poison_isolation.py::")
_TRIES = "test_bootstrap_is_tried_again_only_if_a_relay_may_have_fenced_it"
_ONE_LOOK = "test_one_look_at_a_time_so_that_an_older_view_does_not_replace_a_newer_one"
_LOCK = "async with self._turn:"
_OPEN, _CLAIM = "producer = await self._opened()", "claimed = await self._claim(requests)"
_FENCED = "test_producer_of_a_batch_under_way_is_fenced_unless_it_is_the_shards_own"

GUARDS: Sequence[Guard] = (
    _wake(
        "notifier: a busy shard is woken too",
        "async def _wake_pending",
        "else:\n                publisher.wake()",
        "else:\n                pass",
        "test_busy_shard_is_woken_because_it_may_have_claimed_before_the_commit[True]",
    ),
    _wake(
        "notifier: a group is woken as a whole, without a query",
        "async def _wake_pending",
        " and not (notified and publisher.grouped)",
        "",
        "test_idle_shards_of_a_group_are_all_woken_by_a_notification_without_a_query",
    ),
    _wake(
        "notifier: the connection is tried at the poll interval",
        "async def _wake_pending",
        "if idle or not notified:",
        "if idle:",
        "test_connection_is_tried_at_the_poll_interval_even_without_idle_shards",
    ),
    _listen(
        "notifier: events from before it listened are looked for",
        "async def _listen",
        "self._notified.set()",
        "pass",
        "test_shards_look_for_earlier_events_immediately_when_the_relay_listens",
    ),
    _listen(
        "notifier: the loss of its connection is noticed at once",
        "async def _listen",
        "connection.add_termination_listener(self._on_notification)",
        "pass",
        "test_loss_of_the_listening_connection_is_noticed_before_the_poll_interval",
    ),
    _listen(
        "notifier: shards poll while it does not listen",
        "metrics.LISTENING.set(0)",
        "publisher.wake()",
        "pass",
        "test_every_shard_polls_while_the_relay_does_not_listen",
    ),
    _assigner(
        "shards: a publisher that a bug ended is not begun again at once",
        "def _ended",
        "            return  #",
        "            pass  #",
        "test_replica_looks_for_shards_immediately_after_one_ended_without_a_bug[bug-False]",
    ),
    _takeover(
        "take-over: without a batch under way nobody is fenced",
        "def to_fence",
        "lease.claimed and ",
        "",
        f"{_FENCED}[no batch]",
    ),
    _takeover(
        "take-over: a shard's own producer is fenced once only",
        "def to_fence",
        " and lease.transactional_id != own",
        "",
        f"{_FENCED}[its own batch]",
    ),
    _takeover(
        "take-over: a paused replica's old row is no contradiction",
        "if found is Reconciliation.REFUSED:",
        "await store.check_lease(connection, lease)",
        "pass",
        "test_paused_replica_with_an_old_row_loses_its_lease_and_is_not_refused",
    ),
    _client(
        "broker: any error of its client is its failure",
        "async def bounded",
        "except Exception as error:",
        "except OSError as error:",
        "test_any_error_of_a_client_is_a_failure_of_the_broker[AssertionError()]",
    ),
    _group(
        "group: one shard's lost lease does not fail the others",
        "async def _claim",
        "except (LeaseLost, ShardLocked):",
        "except ShardLocked:",
        "test_failed_claim_makes_shards_go_alone_or_ends_the_connection[one shard]",
    ),
    _group(
        "group: a connection in doubt is dropped",
        "async def _claim",
        "await self._disconnect()",
        "pass",
        "test_failed_claim_makes_shards_go_alone_or_ends_the_connection[connection]",
    ),
    _group(
        "group: events are claimed with an open producer",
        "async def _round",
        f"{_OPEN}\n            began = clock()\n            {_CLAIM}",
        f"{_CLAIM}\n            {_OPEN}",
        "test_producer_is_open_before_events_are_claimed",
    ),
    _group(
        "group: shards that ask in the next step take part",
        "async def _run",
        "await asyncio.sleep(0)",
        "pass",
        "test_shard_that_asks_in_the_next_step_of_the_event_loop_takes_part_in_the_round",
    ),
    _group(
        "group: a failed round ends no other",
        "async def _round",
        "if not is_survivable(error):",
        "if True:",
        "test_failed_round_is_followed_by_the_one_that_other_shards_wait_for",
    ),
    _group(
        "group: one that is closed begins no round",
        "async def _round",
        "if not is_survivable(error):",
        "if False:",
        "test_group_that_is_closed_begins_no_further_round",
    ),
    _fencing(
        "take-over: this replica's own group is not fenced from outside",
        "async def _fence",
        "if others == self._group.transactional_id:",
        "if False:",
        "test_own_group_s_failed_producer_is_fenced_by_its_next_one",
    ),
    _fencing(
        "shard: no batch is under way while another transactional id is recorded",
        "async def _record_transactional_id",
        "await takeover.mark(connection, self._settings, lease, number)",
        "pass",
        "test_batch_is_marked_before_another_transactional_id_is_recorded",
    ),
    _fencing(
        "shard: its last batch is marked",
        "async def _publish",
        "await takeover.mark(connection, self._settings, lease, number)",
        "pass",
        "test_last_batch_is_marked_before_its_shard_is_released",
    ),
    _takeover(
        "take-over: a Kafka without a number is called so",
        "raise TakeOverRefused",
        "'none' if committed is None else committed",
        "'none' if not committed else committed",
        "test_refusal_of_a_take_over_names_the_numbers_of_kafka_and_the_database[0-0]",
    ),
    _store(
        "shard: a slow cycle gets more time",
        "async def cycle(",
        ", timeout=timeout_seconds",
        "",
        "test_cycle_has_the_time_limit_that_it_is_given",
    ),
    _bootstrap(
        "bootstrap: a relay may fence it once",
        "TRIES =",
        "3",
        "1",
        f"{_TRIES}[fenced by a relay]",
    ),
    _bootstrap(
        "bootstrap: it ends",
        "except (BrokerFailed, LeaseLost, Unavailable) as error:",
        "not tries_left or ",
        "",
        f"{_TRIES}[fenced each time]",
    ),
    _bootstrap(
        "bootstrap: it does not wait for a database",
        "except (BrokerFailed, LeaseLost, Unavailable) as error:",
        " or isinstance(error, Unavailable)",
        "",
        f"{_TRIES}[no database]",
    ),
    _watch("topics: one look by itself at a time", "async def run", _LOCK, "if True:", f"{_ONE_LOOK}[by itself]"),
    _watch("topics: one take-over looks at a time", "async def ensure", _LOCK, "if True:", f"{_ONE_LOOK}[take-over]"),
    _watch("topics: a bootstrap looks alone", "async def declare", _LOCK, "if True:", f"{_ONE_LOOK}[bootstrap]"),
    _watch(
        "topics: a broker is asked again once",
        "def _expect",
        " and self._expected != recorded",
        "",
        "test_broker_is_asked_again_before_added_partitions_are_refused",
    ),
    _watch(
        "topics: a broker that is not behind is not asked again",
        "def _expect",
        "there == self._broker.view.partitions and ",
        "",
        "test_process_that_knows_no_number_yet_refuses_fewer_partitions_than_recorded",
    ),
    _watch(
        "topics: the first ones are not created again",
        "async def _look(",
        "if self._looked and ",
        "if ",
        "test_topic_is_recreated_only_if_it_was_there_before",
    ),
    _watch(
        "topics: later ones are created again",
        "async def _look(",
        "self._looked = True",
        "pass",
        "test_topic_is_recreated_only_if_it_was_there_before",
    ),
    _assign(
        "shards: replicas that start together try different ones",
        "def assign",
        "free[start:] + free[:start]",
        "free",
        "test_replicas_that_start_together_try_different_shards_first",
    ),
    _failures(
        "shard: the length of its state is bounded",
        "def failed",
        "[:STATE_CHARACTERS]",
        "",
        "test_state_of_a_failed_shard_has_a_bounded_length",
    ),
    _events(
        "shard: record batches have a smallest size",
        "def smaller",
        "max(CHUNK_BYTES_MIN, chunk_bytes // 2)",
        "chunk_bytes // 2",
        "test_record_batches_never_get_so_small_that_a_batch_takes_too_many_round_trips",
    ),
)
