"""The audit's figures are those of the replica that ran the newest pass."""

from deploy.console.figures.exposition import Key, Reader
from deploy.console.figures.live import METRICS
from deploy.console.figures.readings import Look, Reading
from deploy.console.pages.books import last_pass, value_at_risk


def replica(text: str) -> Reading:
    return Reading(None, Look(0.0, Reader(METRICS).read(text)))


OLD = replica(
    "audit_last_pass_timestamp_seconds 100\naudit_pass_seconds 1\n"
    'audit_violations{kind="orphan"} 7\nvalue_at_risk{what="units"} 99\nvalue_at_risk_oldest_seconds 5\n'
)
NEW = replica(
    "audit_last_pass_timestamp_seconds 200\naudit_pass_seconds 2\n"
    'audit_violations{kind="orphan"} 0\naudit_violations{kind="missing"} 2\n'
    'audit_orphans_worth{participant="coupon"} 3\n'
    'value_at_risk{what="units"} 4\nvalue_at_risk{what="sagas"} 1\nvalue_at_risk_oldest_seconds 0.5\n'
)
NEVER = replica("audit_last_pass_timestamp_seconds 0\n")


def test_newest_pass_counts_and_zeros_are_left_out() -> None:
    assert last_pass([OLD, NEW, NEVER]) == {"at": 200, "seconds": 2, "found": {"missing": 2}, "worth": {"coupon": 3}}


def test_value_at_risk_is_of_the_replica_that_audits() -> None:
    assert value_at_risk([OLD, NEW]) == {"sagas": 1, "units": 4, "coupons": None, "amount": None, "oldest": 0.5}


def test_without_a_pass_nothing_is_known() -> None:
    assert last_pass([NEVER]) is last_pass([]) is None
    assert value_at_risk([NEVER]) is value_at_risk([]) is None


def test_metrics_of_the_page_are_read() -> None:
    assert Key("value_at_risk_oldest_seconds", ()) in NEW.now.samples
