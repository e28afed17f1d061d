"""Settings that would not be safe are refused at the start; the origins follow from them."""

from typing import Any

import pytest
from pydantic import ValidationError

from deploy.console.settings import ConsoleSettings

SERVICES: dict[str, Any] = {
    "order_url": "http://order:8001",
    "relay_url": "http://relay:8005",
    "order_admin_url": "http://order:8011",
    "relay_admin_url": "http://relay:8015/",
    **{f"{service}_replicas": f"http://{service}:1" for service in ("order", "product", "coupon", "balance", "relay")},
}


def settings(**changes: Any) -> ConsoleSettings:
    return ConsoleSettings(**{**SERVICES, **changes})


def test_replicas_are_separated_by_spaces() -> None:
    assert settings(order_replicas=" http://a:1/  https://b:2 ").order_replicas == ("http://a:1", "https://b:2")


@pytest.mark.parametrize(
    "wrong",
    [
        {"order_replicas": ""},
        {"relay_replicas": "relay:8105"},
        {"relay_replicas": "http://:8105"},
        {"relay_replicas": "http://relay:81050"},
        {"relay_replicas": "http://[::1:8105"},
        {"order_admin_url": "order:8011"},
        {"origin": "console.example.com"},
        {"origin": "https://console.example.com/path"},
        {"origin": "https://user@console.example.com"},
        {"streams_max": 0},
        {"port": 0},
    ],
)
def test_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


def test_on_loopback_each_of_its_names_is_an_origin() -> None:
    assert settings(port=8020).origins == {"http://127.0.0.1:8020", "http://localhost:8020"}
    assert settings(host="::1", port=1).origins == {"http://[::1]:1", "http://127.0.0.1:1", "http://localhost:1"}
    assert not settings().is_secure


def test_given_origin_is_the_only_one() -> None:
    given = settings(host="0.0.0.0", origin="https://console.example.com/", auth_mode="jwt")
    assert given.origins == {"https://console.example.com"}
    assert given.is_secure
    assert given.errors() == []


def test_origin_on_loopback_has_each_of_its_names_too() -> None:
    given = settings(host="0.0.0.0", port=8020, origin="http://127.0.0.1:9020", auth_mode="jwt")
    assert given.origins == {"http://127.0.0.1:9020", "http://localhost:9020"}
    assert settings(origin="https://localhost").origins == {"https://127.0.0.1", "https://localhost"}
    assert not given.is_secure


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ({"origin": "https://Console.Example.com:443"}, {"https://console.example.com"}),
        ({"origin": "http://localhost:80"}, {"http://127.0.0.1", "http://localhost"}),
        ({"origin": "https://console.example.com:80"}, {"https://console.example.com:80"}),
        ({"port": 80}, {"http://127.0.0.1", "http://localhost"}),
        ({"host": "10.0.0.1", "port": 443}, {"http://10.0.0.1:443"}),
    ],
)
def test_origins_are_written_as_browsers_do(given: dict[str, Any], origins: set[str]) -> None:
    assert settings(**given).origins == origins


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_console_on_all_addresses_needs_its_name(host: str) -> None:
    assert len(settings(auth_mode="jwt", host=host).errors()) == 1
    assert settings(auth_mode="jwt", host=host, origin="https://console.example.com").errors() == []


def test_sessions_without_tls_are_for_loopback_only() -> None:
    assert settings(auth_mode="jwt").errors() == []
    assert settings(auth_mode="jwt", host="0.0.0.0", origin="http://localhost:8020").errors() == []
    assert len(settings(auth_mode="jwt", host="10.0.0.1").errors()) == 1
    assert len(settings(auth_mode="jwt", host="10.0.0.1", origin="http://console.example.com").errors()) == 1
    assert len(settings(auth_mode="jwt", origin="http://console.example.com").errors()) == 1, "a proxy without TLS"
