"""Guards of the order service: refusals that are stored once, rejected orders that leave, and quotas."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/order/"
_answers = guards_in("services/order/engine/idempotency.py", f"{_UNIT}test_answers.py::")
_domain = guards_in("services/order/domain.py", f"{_UNIT}test_domain.py::")
_writes = guards_in("services/order/store.py", f"{_UNIT}test_writes.py::")
_quota = guards_in("services/order/engine/quota.py", f"{_UNIT}test_quota.py::")
_checkout = guards_in("services/order/checkout.py", "tests/integration/order/test_admission.py::")
_retention = guards_in("services/order/queries.sql", "tests/integration/order/test_retention.py::")
_audit = guards_in("services/order/audit/schedule.py", "tests/integration/order_audit/test_passes.py::")
_passes = guards_in("services/order/audit/passes.py", "tests/integration/order_audit/test_archive.py::")
_relays_backlog = guards_in("services/relay/metrics.py", "tests/unit/test_backlogs.py::")
_backlog = guards_in("services/order/backlog.py", "tests/unit/test_backlogs.py::")

GUARDS: Sequence[Guard] = (
    _backlog(
        "backlog: a process that was stopped measures again within a minute",
        "async def run",
        ", PAUSE_MAX_SECONDS)",
        ", 1e9)",
        "test_a_stopped_process_measures_again_within_a_minute[order]",
    ),
    _relays_backlog(
        "backlog: a relay that was stopped measures again within a minute",
        "async def measure_backlog",
        ", BACKLOG_PAUSE_MAX_SECONDS)",
        ", 1e9)",
        "test_a_stopped_process_measures_again_within_a_minute[relay]",
    ),
    _audit(
        "audit: a process that lost the leadership reports no value at risk",
        "async def _lead_and_report",
        "elif self._leads:",
        "elif False:",
        "test_a_process_that_lost_the_leadership_reports_no_value_at_risk",
    ),
    _answers(
        "keys: a stored problem gives the bytes of the first answer",
        "def _refusal",
        "encode(dict(sorted(body.items())))",
        "encode(body)",
        "test_refusal_has_the_same_bytes_in_whatever_order_its_members_were_stored",
    ),
    _domain(
        "orders: a problem about other products than the lines is stored whole",
        "def without_products",
        "return short if with_products(short, lines) == problem else problem",
        "return short",
        "test_problem_with_other_products_than_the_lines_is_stored_whole[products0]",
    ),
    _writes(
        "transitions: names and prices are written once",
        "def priced_lines",
        "if first and",
        "if",
        "test_names_and_prices_are_written_by_the_first_transition_that_knows_them",
    ),
    _quota(
        "quota: the rounding of intervals takes nothing from the budget",
        "def _check_rate",
        "wait_seconds < self._interval_seconds / 1000",
        "wait_seconds <= 0",
        "test_caller_begins_the_budget_of_a_minute_at_once_and_no_more",
    ),
    _quota(
        "quota: the number of remembered callers is bounded",
        "def _check_rate",
        "self._full_at.popitem(last=False)",
        "pass",
        "test_only_so_many_callers_are_remembered",
    ),
    _checkout(
        "quota: a saga whose request was answered 202 is under way",
        "# After an answer 202, the saga still runs.",
        "self._registry.when_ended(start.saga_id, partial(self._quota.leave, subject))",
        "self._quota.leave(subject)",
        "test_order_whose_participant_is_down_stays_in_its_callers_quota",
    ),
    _retention(
        "retention: the age of a rejected order counts from the end of its saga",
        "-- name: prune_rejected",
        "< now() - make_interval(hours => $3), true)",
        "IS NOT NULL, true)",
        "test_rejected_orders_leave_with_all_that_belongs_to_them",
    ),
    _passes(
        "audit: a wrong time of the archive does not end the audit",
        "async def _first_audited",
        "min(self._archived_before, now - self._retention)",
        "self._archived_before",
        "test_orders_within_the_retention_are_compared_whatever_is_set",
    ),
)
