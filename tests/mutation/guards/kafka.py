"""Guards of the relay's clients of Kafka: its producers, its topics, the search for a shard's position, and access."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/relay/"
_producer = guards_in("services/relay/kafka/producer.py", f"{_UNIT}test_publication.py::")
_admin = guards_in("services/relay/kafka/admin.py", f"{_UNIT}test_cluster.py::")
_positions = guards_in("services/relay/kafka/positions.py", f"{_UNIT}test_positions.py::")
_errors = guards_in("services/relay/kafka/errors.py", f"{_UNIT}test_broker_errors.py::")
_access = guards_in("services/relay/access.py", f"{_UNIT}test_settings.py::")
_NOT_COMMITTED = "test_transaction_with_a_failed_send_is_not_committed"
_CHUNKS = "test_full_record_batch_is_followed_by_another_without_loss"
_ONE_AT_A_TIME = "test_one_caller_at_a_time_uses_the_connection"
_POLICY = "test_only_missing_topics_are_created_each_with_an_explicit_policy"
_LOCK, _AND_LOCK = "async with self._turn:", "async with self._turn, "

PRODUCER = (
    _producer(
        "producer: one record batch of a partition after the other",
        "async def _send(",
        "await (await self._producer.send_batch(chunk.builder, self._settings.topic, partition=index))",
        "await self._producer.send_batch(chunk.builder, self._settings.topic, partition=index)",
        "test_record_batch_that_is_refused_is_followed_by_none_of_its_partition",
    ),
    _producer(
        "producer: no commit after a failed send",
        "async def publish",
        "_check(results)",
        "pass",
        f"{_NOT_COMMITTED}[refused]",
        f"{_NOT_COMMITTED}[failed]",
        f"{_NOT_COMMITTED}[position]",
    ),
    _producer(
        "producer: a failure is worse than a refusal",
        "def _check",
        "if isinstance(result, BaseException) and not isinstance(result, EventsRefused):",
        "if False:",
        f"{_NOT_COMMITTED}[refused and failed]",
    ),
    _producer(
        "producer: no send outlives its publication",
        "async def publish",
        "return_exceptions=True",
        "return_exceptions=False",
        "test_publication_fails_only_once_every_send_has_an_outcome",
    ),
    _producer(
        "producer: refusals of all partitions are reported",
        "def _check",
        "first.chunks = [chunk for refusal in refusals for chunk in refusal.chunks]",
        "pass",
        "test_refusals_of_all_partitions_are_reported_together",
    ),
    _producer(
        "producer: no number without a transaction",
        "sends = [",
        "if self._transactional:",
        "if True:",
        "test_batch_number_is_sent_inside_the_transaction_and_never_without_one[False]",
    ),
    _producer(
        "producer: records have the database's time",
        "def _chunks",
        "now = self._view.milliseconds()",
        "now = int(events[0].occurred_at.timestamp() * 1000) if events else 0",
        "test_records_have_the_database_s_time_and_not_their_events",
    ),
    _producer(
        "producer: positions have the database's time",
        "async def _send_position",
        "timestamp_ms=self._view.milliseconds()",
        "timestamp_ms=0",
        "test_records_have_the_database_s_time_and_not_their_events",
    ),
    _producer(
        "producer: one number of partitions for all",
        "def _chunks",
        "self._view.partitions or self._partitions",
        "self._partitions",
        "test_all_producers_of_a_process_use_the_number_of_partitions_that_it_knows[known]",
    ),
    _producer(
        "producer: the event that fills a record batch begins the next",
        "# The first record always fits",
        "chunks[-1].builder.append(timestamp=now, key=key, value=value, headers=attributes)",
        "pass",
        f"{_CHUNKS}[False-sizes0]",
    ),
    _producer(
        "producer: one by one to find the refused event",
        "def _chunks",
        "                one_by_one\n                or not chunks",
        "                not chunks",
        f"{_CHUNKS}[True-sizes1]",
    ),
    _producer(
        "producer: an answer to an earlier batch is forgotten",
        "async def _answered",
        "self._producer.forget_answer()",
        "pass",
        "test_failed_publication_names_the_answer_that_the_library_retried_meanwhile[False]",
    ),
    _producer(
        "producer: the answer that the library retries is named",
        "async def _answered",
        "if answer is None:",
        "if True:",
        "test_failed_publication_names_the_answer_that_the_library_retried_meanwhile[True]",
    ),
    _producer(
        "producer: one that can't be opened is dropped",
        "async def __aenter__",
        "            await self.drop()\n            raise",
        "            raise",
        "test_producer_that_could_not_be_opened_is_dropped",
    ),
    _producer(
        "producer: nothing is sent after its end",
        "async def _drop",
        "await self._producer.abandon()",
        "pass",
        "test_producer_that_could_not_be_opened_is_dropped",
    ),
    _producer(
        "producer: a cancelled caller drops it as well",
        "async def drop",
        "await run_to_completion(self._drop())",
        "await self._drop()",
        "test_producer_is_dropped_at_the_end_although_its_caller_is_cancelled",
    ),
    _producer(
        "producer: records are written once",
        "self._producer = KafkaProducer(",
        "            enable_idempotence=True,\n            retry_backoff_ms=RETRY_BACKOFF_MILLISECONDS,\n",
        "",
        "test_producer_options_bound_duplicates_and_open_transactions[False]",
    ),
    _producer(
        "producer: an open transaction blocks readers for the setting's time",
        "milliseconds = ",
        ', "transaction_timeout_ms": milliseconds',
        "",
        "test_producer_options_bound_duplicates_and_open_transactions[True]",
    ),
)

CLUSTER = (
    _admin(
        "broker: the connection may be older than its restart",
        "async def check",
        "                await self._ask()  # the connection",
        "                raise  # the connection",
        "test_check_is_repeated_once_with_a_new_connection",
    ),
    _admin(
        "broker: a failed connection is closed",
        "async def _client",
        "            await self.close()\n            raise",
        "            raise",
        "test_check_is_repeated_once_with_a_new_connection",
    ),
    _admin("broker: one check at a time", "async def check", _LOCK, "if True:", f"{_ONE_AT_A_TIME}[check]"),
    _admin("broker: one look at a time", "async def look_at_topics", _LOCK, "if True:", f"{_ONE_AT_A_TIME}[look]"),
    _admin(
        "broker: one declaration at a time",
        "async def declare",
        _AND_LOCK,
        "async with ",
        f"{_ONE_AT_A_TIME}[declare]",
    ),
    _admin(
        "broker: one description at a time",
        "async def partitions",
        _AND_LOCK,
        "async with ",
        f"{_ONE_AT_A_TIME}[partitions]",
    ),
    _admin(
        "topics: events are never compacted",
        "def _own_topics",
        "topic_partitions, DELETE",
        "topic_partitions, COMPACT",
        _POLICY,
    ),
    _admin(
        "topics: watermarks are compacted",
        "self._new(settings.watermark_topic",
        "COMPACT",
        "DELETE",
        _POLICY,
    ),
    _admin(
        "topics: positions are compacted",
        "self._new(settings.position_topic",
        "COMPACT",
        "DELETE",
        "test_recorded_number_of_partitions_precedes_that_of_the_settings",
    ),
    _admin(
        "topics: new ones have as many partitions as recorded",
        "def _own_topics",
        "partitions or settings.topic_partitions",
        "settings.topic_partitions",
        "test_recorded_number_of_partitions_precedes_that_of_the_settings",
    ),
    _admin(
        "topics: one that another replica creates is no failure",
        "def _created",
        "elif error is not TopicAlreadyExistsError:",
        "else:",
        "test_topic_that_another_replica_creates_meanwhile_is_no_failure",
    ),
    _admin(
        "topics: one that can't be created is a failure",
        "def _created",
        "elif error is not TopicAlreadyExistsError:",
        "elif False:",
        "test_topic_that_cannot_be_created_is_a_failure",
    ),
    _admin(
        "topics: a broker learns of new ones later",
        "while len(found :=",
        " < len(wanted):",
        " < 0:",
        "test_new_topics_are_waited_for_until_the_broker_knows_them",
    ),
    _admin(
        "topics: one that may not be seen is not missing",
        "async def seen",
        "elif error is not UnknownTopicOrPartitionError:",
        "elif False:",
        "test_topic_that_may_not_be_seen_is_a_failure",
    ),
    _admin(
        "topics: the embedded broker has no controller",
        "async def _create_missing",
        'if cluster.get("controller_id") not in {broker["node_id"] for broker in cluster["brokers"]}:',
        "if False:",
        "test_broker_without_a_controller_creates_the_topics_that_it_is_asked_about",
    ),
    _admin(
        "topics: the embedded broker knows of no settings",
        "async def _configs",
        "except IncompatibleBrokerVersion:",
        "except ZeroDivisionError:",
        "test_topic_s_settings_are_unknown_without_the_right_to_read_them[without settings]",
    ),
    _admin(
        "topics: settings that can't be read now are a failure",
        "async def _configs",
        "if error not in (NoError, TopicAuthorizationFailedError, ClusterAuthorizationFailedError):",
        "if False:",
        "test_topic_s_settings_that_cannot_be_read_now_are_a_failure",
    ),
    _admin(
        "topics: the worst partition counts",
        "async def described",
        'min(len(partition["replicas"])',
        'max(len(partition["replicas"])',
        "test_replication_of_a_topic_is_that_of_its_worst_partition",
    ),
)

POSITIONS = (
    _positions(
        "positions: nothing before an unsettled transaction is trusted",
        "async def _search",
        "_check_stable(consumer, partition, stable_end)",
        "pass",
        "test_number_before_an_unsettled_transaction_is_not_trusted",
    ),
    _positions(
        "positions: steps grow",
        "async def _search",
        "step * STEP_GROWTH",
        "step",
        "test_number_behind_many_aborted_ones_is_found_in_a_few_growing_steps",
    ),
    _positions(
        "positions: not before the beginning",
        "async def _search",
        "max(first, end - step)",
        "end - step",
        "test_partition_without_a_number_is_read_to_its_beginning_and_no_further",
    ),
)

ACCESS = (
    _errors(
        "errors: a number of the operating system is not Kafka's",
        "def reason",
        " if isinstance(error, BrokerResponseError) else None",
        "",
        "test_number_of_the_operating_system_is_not_taken_for_one_of_kafka_s",
    ),
    _access(
        "access: a password's file has a line end",
        "def _text",
        '.rstrip("\\r\\n")',
        "",
        "test_password_in_a_file_is_read_at_each_connection_without_its_line_end",
    ),
    _access(
        "access: an empty file is no password",
        "def _one_password",
        "if path is not None and not _text(path):",
        "if False:",
        "test_file_without_a_password_is_refused",
    ),
    _access(
        "access: a key is tried at the start",
        "def _with_tls",
        "_tried(None, certificate, path)",
        "pass",
        "test_contradicting_kafka_settings_are_named_without_secrets[values6-named6]",
    ),
)

GUARDS: Sequence[Guard] = (*PRODUCER, *CLUSTER, *POSITIONS, *ACCESS)
