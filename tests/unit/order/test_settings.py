"""The constraints between the order service's settings."""

import pytest
from pydantic import ValidationError

from services.order.settings import Settings

URL = "postgresql://localhost/shop"
DAY = 86_400


def test_a_payment_may_be_due_as_late_as_half_of_the_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_DAYS", "20")
    assert Settings(database_url=URL, payment_timeout_seconds=10 * DAY).payment_timeout_seconds == 10 * DAY


def test_payment_timeout_above_half_of_the_retention_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RETENTION_DAYS", "20")
    with pytest.raises(ValidationError, match="must not exceed half of RETENTION_DAYS, which is 20"):
        Settings(database_url=URL, payment_timeout_seconds=10 * DAY + 1)


def test_keys_may_be_kept_as_long_as_sagas_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_DAYS", "7")
    assert Settings(database_url=URL, idempotency_hours=7 * 24).idempotency_hours == 7 * 24
    with pytest.raises(ValidationError, match="must not exceed RETENTION_DAYS, which is 7"):
        Settings(database_url=URL, idempotency_hours=7 * 24 + 1)


def test_a_week_is_the_least_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_DAYS", "6")
    with pytest.raises(ValidationError, match="RETENTION_DAYS"):
        Settings(database_url=URL)


@pytest.mark.parametrize("slots", ["0-4095", "0-2047 older", "older", "17"])
def test_cell_that_owns_a_part_must_know_since_when_ids_have_slots(monkeypatch: pytest.MonkeyPatch, slots: str) -> None:
    monkeypatch.setenv("CELL_SLOTS", slots)
    with pytest.raises(ValidationError, match="must be set where CELL_SLOTS is not everything"):
        Settings(database_url=URL)
    monkeypatch.setenv("CELL_SLOTS_SINCE", "2026-12-01T09:00:00.001+09:00")
    ownership = Settings(database_url=URL).ownership
    assert (ownership.since_milliseconds, ownership.is_everything) == (1_796_083_200_001, False)


def test_one_cell_owns_everything_and_needs_no_setting() -> None:
    assert Settings(database_url=URL).ownership.is_everything


@pytest.mark.parametrize(("slots", "since"), [("0-4096", None), ("", None), ("3", "2026-12-01"), ("3", "now")])
def test_wrong_slots_are_refused(monkeypatch: pytest.MonkeyPatch, slots: str, since: str | None) -> None:
    monkeypatch.setenv("CELL_SLOTS", slots)
    if since is not None:
        monkeypatch.setenv("CELL_SLOTS_SINCE", since)
    with pytest.raises(ValidationError):
        Settings(database_url=URL)
