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
