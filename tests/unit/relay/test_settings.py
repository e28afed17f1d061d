"""Which settings the relay refuses."""

import pytest
from pydantic import ValidationError

from services.relay.settings import RelaySettings
from shared.settings import explain

DATABASE = "postgresql://relay@127.0.0.1/orders"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("RELAY_DATABASE_URL", DATABASE)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    return monkeypatch


def test_the_broker_is_named_without_the_services_prefix(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9092")
    assert RelaySettings().kafka_bootstrap_servers == "one:9092,two:9092"


def test_two_replicas_on_one_machine_have_different_names(environment: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    assert RelaySettings().replica != RelaySettings().replica


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:0"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092,"),
        ("RELAY_TOPIC", "orders/v1"),
        ("RELAY_LEASE_SECONDS", "0.5"),
        ("RELAY_POLL_INTERVAL_SECONDS", "0"),
        ("RELAY_BATCH_EVENTS", "0"),
        ("RELAY_TRANSACTIONS", "maybe"),
    ],
)
def test_a_wrong_setting_is_named_by_its_variable(environment: pytest.MonkeyPatch, variable: str, value: str) -> None:
    environment.setenv(variable, value)
    with pytest.raises(ValidationError) as caught:
        RelaySettings()
    (line,) = explain(RelaySettings, caught.value)
    assert line.startswith(f"setting {variable}: ")
