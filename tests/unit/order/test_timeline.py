"""The items of an order's timeline."""

from datetime import timedelta
from typing import Any

from services.order.timeline import timeline
from tests.unit.order.samples import NOW


def a_row(kind: str, **fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "status": "DONE", "target": None, "attempt": 0, "stuck": False}
    return {**row, "problem": None, "log": [], "started_at": NOW, "ended_at": NOW + timedelta(seconds=1), **fields}


def timeline_rows(*rows: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(item["step"], item["outcome"], item["detail"]) for item in timeline(rows)]


def test_timeline_shows_a_saga_from_its_start_to_its_end() -> None:
    log = [
        {"at": "2026-05-01T12:00:00Z", "step": "hold_stock", "outcome": "applied"},
        {"at": "2026-05-01T12:00:00Z", "step": "debit", "outcome": "refused", "detail": "The account has 5."},
    ]
    assert timeline_rows(
        a_row("place_now", status="COMPENSATED", log=log, problem={"detail": "The account has 5."})
    ) == [
        ("place_now", "started", None),
        ("hold_stock", "applied", None),
        ("debit", "refused", "The account has 5."),
        ("place_now", "compensated", "The account has 5."),
    ]


def test_refused_step_without_a_detail_has_that_of_the_sagas_problem() -> None:
    log = [
        {"at": "2026-05-01T12:00:00Z", "step": "hold_stock", "outcome": "unknown"},
        {"at": "2026-05-01T12:00:00Z", "step": "hold_stock", "outcome": "refused"},
    ]
    row = a_row("place_now", status="COMPENSATED", log=log, problem={"detail": "There is no product cup."})
    assert timeline_rows(row)[1:3] == [
        ("hold_stock", "unknown", None),
        ("hold_stock", "refused", "There is no product cup."),
    ]


def test_timeline_names_a_payments_attempt_and_a_closings_target() -> None:
    rows = [a_row("pay", attempt=2), a_row("close", target="REFUNDED", status="COMPENSATED")]
    assert timeline_rows(*rows) == [
        ("pay", "started", "attempt 2"),
        ("pay", "done", None),
        ("close", "started", "to become REFUNDED"),
        ("close", "compensated", None),
    ]


def test_live_saga_has_no_end_and_a_stuck_one_is_marked() -> None:
    row = a_row("close", target="EXPIRED", status="COMPENSATING", ended_at=None, stuck=True)
    assert [item[1] for item in timeline_rows(row)] == ["started", "stuck"]


def test_order_without_sagas_has_an_empty_timeline() -> None:
    assert timeline([]) == []
