"""Settings come from the environment; all errors are reported together, without secrets."""

from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from shared.postgres.connecting import AddressUnreadable
from shared.postgres.errors import explain
from shared.process.settings import DomainSettings, HttpUrl, ParticipantSettings, load
from tests.infrastructure.authority import Authority


class Settings(DomainSettings):
    """A service's settings."""

    model_config = SettingsConfigDict(env_prefix="TEST_")

    port: int = 8000
    peer_url: HttpUrl = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return an environment with only the required settings."""
    monkeypatch.delenv("CURRENCY", raising=False)
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://user:hunter2@host/db")
    return monkeypatch


def test_unset_variable_has_its_default() -> None:
    settings = load(Settings)
    assert (settings.host, settings.port, settings.currency) == ("127.0.0.1", 8000, "KRW")


def test_variable_is_prefix_and_name_except_the_shared_currency(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TEST_PORT", "9")
    environment.setenv("CURRENCY", "EUR")
    environment.setenv("TEST_CURRENCY", "USD")
    environment.setenv("TEST_PEER_URL", "http://peer/")
    settings = load(Settings)
    assert (settings.port, settings.currency, settings.peer_url) == (9, "EUR", "http://peer")


def test_all_settings_errors_are_printed_a_line_each_with_status_2(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environment.delenv("TEST_DATABASE_URL")
    environment.setenv("TEST_PORT", "many")
    environment.setenv("TEST_LOG_LEVEL", "loud")
    environment.setenv("CURRENCY", "won")
    environment.setenv("TEST_PEER_URL", "ftp://peer")
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    named = {line.removeprefix("setting ").split(":")[0] for line in lines}
    assert named == {"TEST_DATABASE_URL", "TEST_PORT", "TEST_LOG_LEVEL", "CURRENCY", "TEST_PEER_URL"}
    assert "setting TEST_DATABASE_URL: is not set" in lines


def test_error_of_a_wrong_address_has_no_password(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("TEST_DATABASE_URL", "mysql://user:hunter2@host/db")
    with pytest.raises(SystemExit):
        load(Settings)
    errors = capfd.readouterr().err
    assert "postgresql://" in errors
    assert "hunter2" not in errors


ADDRESS = "postgresql://order_service_a:hunter2@host/db"


@pytest.fixture
def address_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a file with the database's address, from which the settings take it."""
    path = tmp_path / "address"
    path.write_text(f"{ADDRESS}\n")
    environment.delenv("TEST_DATABASE_URL")
    environment.setenv("TEST_DATABASE_URL_FILE", str(path))
    return path


def test_address_in_a_file_is_read_again_whenever_it_is_needed(address_file: Path) -> None:
    settings = load(Settings)
    assert settings.current_database_url() == ADDRESS
    address_file.write_text(ADDRESS.replace("_a:", "_b:"))
    assert settings.current_database_url() == ADDRESS.replace("_a:", "_b:")


@pytest.mark.parametrize(
    "content", [None, "", "\n", "mysql://user:hunter2@host/db", "\xff\xfe", f"{ADDRESS}\n{ADDRESS}"]
)
def test_wrong_address_file_is_named_without_its_content(
    address_file: Path, capfd: pytest.CaptureFixture[str], content: str | None
) -> None:
    settings = load(Settings)
    if content is None:
        address_file.unlink()
    else:
        address_file.write_bytes(content.encode("latin-1"))
    with pytest.raises(AddressUnreadable) as unreadable:
        settings.current_database_url()
    assert str(address_file) in explain(unreadable.value)
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    errors = capfd.readouterr().err
    assert errors.startswith("setting TEST_DATABASE_URL_FILE: ")
    assert errors.count("\n") == 1
    assert "hunter2" not in errors + explain(unreadable.value)
    assert str(address_file) not in str(unreadable.value)  # which clients see


def test_address_and_file_together_are_refused(
    address_file: Path, environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert address_file.exists()
    environment.setenv("TEST_DATABASE_URL", ADDRESS)
    with pytest.raises(SystemExit):
        load(Settings)
    assert "setting TEST_DATABASE_URL: " in (errors := capfd.readouterr().err)
    assert "hunter2" not in errors


def test_missing_address_is_reported_once(environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    environment.delenv("TEST_DATABASE_URL")
    with pytest.raises(SystemExit):
        load(Settings)
    assert capfd.readouterr().err == "setting TEST_DATABASE_URL: is not set\n"


class Participant(ParticipantSettings):
    """A participant's settings."""

    model_config = SettingsConfigDict(env_prefix="TEST_")

    port: int = 8000


def refusals(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Return the settings that are refused."""
    with pytest.raises(SystemExit):
        load(Participant)
    return [line.split(":")[0].removeprefix("setting ") for line in capfd.readouterr().err.splitlines()]


def test_wrong_files_for_tls_are_named(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    environment.setenv("TEST_INTERNAL_CLIENT_CA_FILE", str(authority.file))
    assert refusals(capfd) == ["TEST_INTERNAL_CLIENT_CA_FILE"]  # without TLS
    environment.setenv("TEST_TLS_CERTIFICATE_FILE", certificate)
    assert refusals(capfd) == ["TEST_TLS_KEY_FILE"]
    environment.setenv("TEST_TLS_KEY_FILE", authority.issue("other")[1])
    assert refusals(capfd) == ["TEST_TLS_KEY_FILE"]
    environment.setenv("TEST_TLS_KEY_FILE", key)
    settings = load(Participant)
    assert settings.tls_files(internal=False).authorities is None
    assert settings.tls_files(internal=True).authorities == str(authority.file)
    environment.setenv("TEST_INTERNAL_CLIENT_CA_FILE", key)
    environment.setenv("AUTH_CA_FILE", str(tmp_path / "missing"))
    environment.setenv("TEST_INTERNAL_CLIENT_NAMES", " ")
    assert refusals(capfd) == ["AUTH_CA_FILE", "TEST_INTERNAL_CLIENT_CA_FILE", "TEST_INTERNAL_CLIENT_NAMES"]


def test_internal_listener_has_its_own_port_or_one_that_follows_from_the_other(environment: pytest.MonkeyPatch) -> None:
    assert load(Settings).internal_listener.port == 8100
    environment.setenv("TEST_INTERNAL_PORT", "9")
    assert load(Settings).internal_listener.port == 9
