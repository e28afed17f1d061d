"""A service that answers requests says how it identifies callers, and does not start with a setting that can't work."""

import importlib
from typing import Any

import pytest

from services.relay.settings import RelaySettings
from shared.identity.modes import authenticator, errors
from shared.process.exits import Exit

SERVICES = ["order", "product", "coupon", "balance", "relay"]
JWT = {"auth_mode": "jwt", "auth_issuer": "https://issuer.test", "auth_audience": "orders", "auth_jwks": "/keys"}


def settings(service: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    monkeypatch.delenv("AUTH_MODE", raising=False)
    kind = RelaySettings if service == "relay" else importlib.import_module(f"services.{service}.settings").Settings
    others: dict[str, Any] = {"kafka_bootstrap_servers": "127.0.0.1:1"} if service == "relay" else {}
    if service == "order":
        others = {f"{name}_url": "http://127.0.0.1:1" for name in ("product", "coupon", "balance")}
    return kind(port=1, database_url="postgresql://nobody@127.0.0.1:1/nowhere", **others, **changes)


@pytest.mark.parametrize("service", SERVICES)
def test_service_without_a_mode_is_refused(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    (line,) = errors(settings(service, monkeypatch))
    assert line.startswith("setting AUTH_MODE: is not set")


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.5", "orders.internal", "127.0.0.1.nip.io", ""]
)
def test_open_mode_is_refused_where_others_can_connect(
    monkeypatch: pytest.MonkeyPatch, service: str, host: str
) -> None:
    (line,) = errors(settings(service, monkeypatch, auth_mode="open", host=host))
    assert line.startswith("setting AUTH_MODE: open asks nobody who they are")


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_open_mode_is_accepted_on_loopback(monkeypatch: pytest.MonkeyPatch, service: str, host: str) -> None:
    assert errors(settings(service, monkeypatch, auth_mode="open", host=host)) == []


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("left_out", ["auth_issuer", "auth_audience", "auth_jwks"])
def test_jwt_mode_names_each_setting_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch, service: str, left_out: str
) -> None:
    lines = errors(settings(service, monkeypatch, **{**JWT, left_out: None}))
    assert any(line.startswith(f"setting {left_out.upper()}: is not set") for line in lines)


@pytest.mark.parametrize(
    ("service", "needed"),
    [
        ("order", [f"ORDER_{name}_INTERNAL_SECRET_FILE" for name in ("PRODUCT", "COUPON", "BALANCE")]),
        ("product", ["PRODUCT_INTERNAL_SECRET_FILE"]),
        ("relay", []),
    ],
)
def test_jwt_mode_needs_the_secrets_of_calls_between_services(
    monkeypatch: pytest.MonkeyPatch, service: str, needed: list[str]
) -> None:
    lines = errors(settings(service, monkeypatch, **JWT))
    assert lines == [f"setting {name}: is not set, but AUTH_MODE=jwt needs it" for name in needed]


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS257", "rs256", "EdDSA"])
def test_algorithm_that_could_not_protect_anything_is_refused(monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    lines = errors(settings("relay", monkeypatch, **JWT, auth_algorithms=("RS256", algorithm)))
    assert any(line.startswith(f"setting AUTH_ALGORITHMS: {algorithm!r}") for line in lines)


async def test_wrong_settings_end_the_process_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        async with authenticator(settings("product", monkeypatch)):
            pass
    assert ended.value.code == Exit.MISCONFIGURED
    assert "setting AUTH_MODE: is not set" in capfd.readouterr().err
