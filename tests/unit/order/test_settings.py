"""The constraints between the order service's settings."""

import pytest
from pydantic import ValidationError

from services.order.product_shards import ONE_PRODUCT_SERVICE
from services.order.settings import Settings
from shared.process.settings import load

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


def test_the_number_of_relay_shards_is_a_power_of_two_from_4_to_64(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(database_url=URL).migration_parameters == {}
    for number in ("4", "8", "16", "32", "64"):
        monkeypatch.setenv("ORDER_RELAY_SHARDS", number)
        assert Settings(database_url=URL).migration_parameters == {"orders.relay_shards": number}
    for number in ("2", "12", "63", "128"):
        monkeypatch.setenv("ORDER_RELAY_SHARDS", number)
        with pytest.raises(ValidationError, match="relay_shards"):
            Settings(database_url=URL)


def test_one_product_service_needs_no_other_setting() -> None:
    settings = Settings(database_url=URL)
    assert settings.participant_urls == {
        "product": "http://127.0.0.1:8002",
        "coupon": "http://127.0.0.1:8003",
        "balance": "http://127.0.0.1:8004",
    }
    assert list(settings.credentials) == list(settings.participant_urls)
    assert settings.product_shards is ONE_PRODUCT_SERVICE


def test_one_address_in_the_list_is_one_product_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDER_PRODUCT_URLS", "http://only")
    assert Settings(database_url=URL).participant_urls["product"] == "http://only"


def test_several_addresses_are_product_shards_with_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDER_PRODUCT_URLS", "http://a:8002/ https://b")
    settings = Settings(database_url=URL)
    assert list(settings.participant_urls) == ["product-0", "product-1", "coupon", "balance"]
    assert settings.participant_urls["product-0"] == "http://a:8002"
    assert [settings.product_shards.place_of(name) for name in ("pen", "mug")] == ["product-0", "product-1"]


def test_shards_may_have_any_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    # A third shard took a third of each of two: nothing else has moved.
    addresses = "0-1364,2048-3412=http://a 1365-2047=http://b 3413-4095=http://c"
    monkeypatch.setenv("ORDER_PRODUCT_URLS", addresses)
    shards = Settings(database_url=URL).product_shards
    assert [shards.place_of(name) for name in ("pen", "ink", "mug")] == ["product-0", "product-1", "product-0"]


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        ("a:8002 http://b", "must begin with http:// or https://"),
        ("http://a http://a", "an address is named twice"),
        ("0-2047=http://a http://b", "either each address has slots, or none has"),
        ("0-2047=http://a 2048-4096=http://b", "2048-4096 is neither a slot"),
        ("0-2047=http://a 2049-4095=http://b", "slot 2048 has no owner"),
        ("0-2047=http://a 2047-4095=http://b", "slot 2047 has two owners"),
        ("older=http://a 0-4095=http://b", "either each address has slots, or none has"),
        ("0-4095=", "must begin with http:// or https://"),
    ],
)
def test_addresses_that_can_not_work_are_named(
    addresses: str, why: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDER_DATABASE_URL", URL)
    monkeypatch.setenv("ORDER_PRODUCT_URLS", addresses)
    with pytest.raises(SystemExit):
        load(Settings)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("setting ORDER_PRODUCT_URLS: ")
    assert why in line


def test_both_settings_of_the_products_are_refused_without_showing_the_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDER_DATABASE_URL", "postgresql://order_service:hunter2@localhost/shop")
    monkeypatch.setenv("ORDER_PRODUCT_URL", "http://127.0.0.1:8002")
    monkeypatch.setenv("ORDER_PRODUCT_URLS", "http://a http://b")
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("ORDER_PRODUCT_URL and ORDER_PRODUCT_URLS are both set; leave one of them out")
    assert "hunter2" not in line


def test_password_in_a_wrong_address_of_a_shard_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDER_DATABASE_URL", URL)
    monkeypatch.setenv("ORDER_PRODUCT_URLS", "ftp://order:hunter2@a")
    with pytest.raises(SystemExit):
        load(Settings)
    assert "hunter2" not in capfd.readouterr().err
