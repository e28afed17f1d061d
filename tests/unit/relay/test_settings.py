"""The settings that the relay refuses."""

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
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SASL_MECHANISM", "PLAIN"),
        ("KAFKA_SASL_MECHANISM", "GSSAPI"),
        ("KAFKA_SASL_USERNAME", "relay"),
        ("KAFKA_SSL_CA_FILE", "/nowhere/ca.pem"),
        ("KAFKA_SSL_CA_FILE", __file__),
        ("KAFKA_SASL_PASSWORD_FILE", __file__),
    ],
)
def test_a_wrong_setting_is_named_by_its_variable(environment: pytest.MonkeyPatch, variable: str, value: str) -> None:
    environment.setenv(variable, value)
    with pytest.raises(ValidationError) as caught:
        RelaySettings()
    (line,) = explain(RelaySettings, caught.value)
    assert line.startswith(f"setting {variable}: ")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, ["SASL_MECHANISM", "SASL_PASSWORD_FILE", "SASL_USERNAME"]),
        (
            {
                "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "KAFKA_SASL_MECHANISM": "PLAIN",
                "KAFKA_SASL_USERNAME": "relay",
                "KAFKA_SASL_PASSWORD": "a secret",
                "KAFKA_SASL_PASSWORD_FILE": __file__,
            },
            ["SASL_PASSWORD_FILE"],
        ),
        ({"KAFKA_SASL_PASSWORD": "a secret"}, ["SASL_PASSWORD_FILE"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA_FILE": __file__}, ["SSL_CA_FILE"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY_FILE": __file__}, ["SSL_KEY_FILE"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CERTIFICATE_FILE": __file__}, ["SSL_KEY_FILE"]),
    ],
)
def test_contradicting_kafka_settings_are_named_without_secrets(
    environment: pytest.MonkeyPatch, values: dict[str, str], named: list[str]
) -> None:
    for variable, value in values.items():
        environment.setenv(variable, value)
    with pytest.raises(ValidationError) as caught:
        RelaySettings()
    lines = explain(RelaySettings, caught.value)
    assert sorted(line.split(":")[0] for line in lines) == [f"setting KAFKA_{name}" for name in named]
    assert "a secret" not in "".join(lines)
