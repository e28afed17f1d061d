"""Settings come from the environment; everything wrong with them is told at once, and no secret with it."""

import pytest
from pydantic_settings import SettingsConfigDict

from shared.settings import HttpUrl, ServiceSettings, load


class Settings(ServiceSettings):
    """A service's settings."""

    model_config = SettingsConfigDict(env_prefix="TEST_")

    port: int = 8000
    peer_url: HttpUrl = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with what is required and nothing else."""
    monkeypatch.delenv("CURRENCY", raising=False)
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://user:hunter2@host/db")
    return monkeypatch


def test_what_is_not_set_has_its_default() -> None:
    settings = load(Settings)
    assert (settings.host, settings.port, settings.currency) == ("127.0.0.1", 8000, "KRW")


def test_a_variable_is_the_prefix_and_the_name_but_the_currency_is_everyone_s(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TEST_PORT", "9")
    environment.setenv("CURRENCY", "EUR")
    environment.setenv("TEST_CURRENCY", "USD")
    environment.setenv("TEST_PEER_URL", "http://peer/")
    settings = load(Settings)
    assert (settings.port, settings.currency, settings.peer_url) == (9, "EUR", "http://peer")


def test_all_errors_are_told_at_once_a_line_each_and_the_status_is_2(
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


def test_a_password_in_a_wrong_address_is_not_told(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("TEST_DATABASE_URL", "mysql://user:hunter2@host/db")
    with pytest.raises(SystemExit):
        load(Settings)
    told = capfd.readouterr().err
    assert "postgresql://" in told
    assert "hunter2" not in told
