"""The settings that the relay refuses."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.relay.settings import RelaySettings
from shared.process.settings import explain
from tests.infrastructure.authority import Authority

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
        (
            {
                "KAFKA_SECURITY_PROTOCOL": "SSL",
                "KAFKA_SSL_CERTIFICATE_FILE": __file__,
                "KAFKA_SSL_KEY_FILE": __file__,
            },
            ["SSL_KEY_FILE"],
        ),
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


@pytest.fixture
def password_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "password"
    for variable, value in {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "relay",
        "KAFKA_SASL_PASSWORD_FILE": str(file),
    }.items():
        environment.setenv(variable, value)
    return file


def test_password_in_a_file_is_read_at_each_connection_without_its_line_end(password_file: Path) -> None:
    password_file.write_text(" the first \r\n")
    settings = RelaySettings()
    assert settings.kafka_options()["sasl_plain_password"] == " the first "
    password_file.write_text("the second\n")
    assert settings.kafka_options()["sasl_plain_password"] == "the second"


def test_file_without_a_password_is_refused(password_file: Path) -> None:
    password_file.write_text("\n")
    with pytest.raises(ValidationError, match="is empty"):
        RelaySettings()


def test_key_with_a_password_is_refused_without_asking_for_it(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("relay", password=b"secret")
    environment.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
    environment.setenv("KAFKA_SSL_CERTIFICATE_FILE", certificate)
    environment.setenv("KAFKA_SSL_KEY_FILE", key)
    with pytest.raises(ValidationError, match="the key has a password"):
        RelaySettings()


def test_address_for_notifications_may_be_in_a_file_too(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert RelaySettings().current_listen_database_url() == RelaySettings().current_database_url()
    path = tmp_path / "address"
    path.write_text("postgresql://direct/db")
    environment.setenv("RELAY_LISTEN_DATABASE_URL_FILE", str(path))
    assert RelaySettings().current_listen_database_url() == "postgresql://direct/db"
    environment.setenv("RELAY_LISTEN_DATABASE_URL", "postgresql://direct/db")
    with pytest.raises(ValidationError, match="set one of them"):
        RelaySettings()
