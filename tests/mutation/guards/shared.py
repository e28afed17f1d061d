"""Guards of what the services share."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/shared/test_leadership.py::"
_RELAY = "tests/integration/relay/"

_leadership = guards_in("shared/leadership.py")
_batcher = guards_in("shared/batcher.py", "tests/unit/shared/test_batcher.py::")
_deadline = guards_in("shared/http/deadline.py", "tests/unit/shared/test_deadline.py::")
_pruning = guards_in("shared/pruning.py", "tests/unit/shared/test_pruning.py::")
_main = guards_in("shared/process/main.py", "tests/integration/test_migrations.py::")
_migrations = guards_in("shared/postgres/migrations.py", "tests/integration/test_migrations")
_readiness = guards_in("shared/http/readiness.py", "tests/unit/shared/test_readiness.py::")

GUARDS: Sequence[Guard] = (
    _leadership(
        "leadership: a paused leader is not certain",
        "def is_certain",
        "return asyncio.get_running_loop().time() <= self.certain_until",
        "return True",
        f"{_UNIT}test_leader_is_certain_until_its_lease_ends",
        f"{_RELAY}test_replayer.py::test_paused_replica_publishes_no_step",
        f"{_RELAY}test_watermark.py::test_paused_replica_announces_nothing",
    ),
    _leadership(
        "leadership: the lease counts from the question",
        "async def renew",
        "self.certain_until = asked_at + seconds if result else 0.0",
        "self.certain_until = asyncio.get_running_loop().time() + seconds if result else 0.0",
        f"{_UNIT}test_lease_counts_from_the_question_not_from_the_answer",
    ),
    _leadership(
        "leadership: who lost it is not certain",
        "async def renew",
        " if result else 0.0",
        "",
        f"{_UNIT}test_replica_that_loses_the_election_is_not_certain",
    ),
    _leadership(
        "leadership: what may be held is released",
        "async def renew",
        "self._may_hold = True  # also if the answer is lost",
        "pass",
        f"{_UNIT}test_release_ends_the_lease_only_of_a_possible_leader",
    ),
    _leadership(
        "leadership: what another process holds is not released",
        "async def release",
        "if not self._may_hold:",
        "if False:",
        f"{_UNIT}test_release_ends_the_lease_only_of_a_possible_leader",
    ),
    _leadership(
        "leadership: a leader stops in order without its database",
        "async def release",
        "with suppress(Unavailable):",
        "with suppress():",
        f"{_UNIT}test_release_ends_the_lease_only_of_a_possible_leader",
        f"{_RELAY}test_replayer.py::test_replica_stops_normally_while_its_database_is_down",
        f"{_RELAY}test_watermark.py::test_replica_stops_normally_while_its_database_is_down",
    ),
    _batcher(
        "batcher: what nobody waits for is not begun",
        "def _next_batch",
        "if not queued[1].done():",
        "if True:",
        "test_closing_does_not_begin_items_without_a_waiter",
    ),
    _batcher(
        "batcher: an item that fails alone is not tried twice",
        "def one_by_one_when",
        "len(items) == 1 or ",
        "",
        "test_lone_item_that_fails_is_not_tried_twice",
    ),
    _deadline(
        "deadline: after a pause a request may answer by itself",
        "def _look",
        "if end < looked_at",
        "if end < asyncio.get_running_loop().time()",
        "test_after_a_pause_of_the_process_a_request_still_answers_by_itself",
    ),
    _deadline(
        "deadline: another cancellation is obeyed",
        "def end",
        " and not task.cancelling()",
        "",
        "test_other_cancellations_are_not_suppressed",
    ),
    _readiness(
        "readiness: a probe that gives up does not end the others'",
        "async def ask",
        "asyncio.shield(self._round)",
        "self._round",
        "test_probes_that_come_together_share_one_run",
    ),
    _readiness(
        "readiness: a probe during a run begins no check again",
        "async def ask",
        "if self._round is None or self._round.done():",
        "if True:",
        "test_probe_that_comes_during_a_run_begins_no_check_again",
    ),
    _pruning(
        "pruning: a full batch is followed by a rest",
        "async def _prune",
        "await asyncio.sleep(REST * (loop.time() - began))",
        "pass",
        "test_pruner_continues_after_the_last_key_and_rests_in_between",
    ),
    _pruning(
        "pruning: a batch begins after the one before",
        "async def _prune",
        "after = places[-1]",
        "pass",
        "test_pruner_continues_after_the_last_key_and_rests_in_between",
    ),
    _migrations(
        "migrations: a replica that waits for another one has no snapshot",
        "def _alone",
        "SHARE UPDATE EXCLUSIVE MODE NOWAIT",
        "SHARE UPDATE EXCLUSIVE MODE",
        "_beside_traffic.py::test_replicas_that_make_an_index_concurrently_do_not_wait_for_one_another",
    ),
    _migrations(
        "migrations: an older version leaves the rights of a newer one",
        "def migrate",
        "() if unknown else migrations.post_apply",
        "migrations.post_apply",
        ".py::test_migrations_of_an_older_version_leave_a_newer_schema_alone",
    ),
    _main(
        "process: a migration's bug has a status of its own",
        "def _migrate",
        "if migrations.is_transient(error):",
        "if True:",
        "test_migration_has_exit_statuses_for_done_for_operators_errors_and_for_a_bug",
    ),
)
