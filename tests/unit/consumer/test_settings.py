"""The consumer takes its database's address from the environment, or from a file that may be replaced."""

from pathlib import Path

import pytest

from deploy.consumer.settings import load

ADDRESS = "postgresql://platform_a:hunter2@host/db"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return an environment with everything that is required except the database's address."""
    monkeypatch.delenv("CONSUMER_DATABASE_URL", raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere:1")
    return monkeypatch


def refusal(capfd: pytest.CaptureFixture[str]) -> str:
    """Return what is printed when the settings are refused; fail if they are not."""
    with pytest.raises(SystemExit) as stopped:
        load()
    assert stopped.value.code == 2
    return capfd.readouterr().err


def test_address_in_a_file_is_read_again_whenever_it_is_needed(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "address"
    environment.setenv("CONSUMER_DATABASE_URL_FILE", str(path))
    path.write_text(f"{ADDRESS}\n")
    settings = load()
    assert settings.current_database_url() == ADDRESS
    path.write_text(ADDRESS.replace("_a:", "_b:"))
    assert settings.current_database_url() == ADDRESS.replace("_a:", "_b:")
    path.unlink()
    with pytest.raises(OSError, match=str(path)):
        settings.current_database_url()


@pytest.mark.parametrize("content", [None, "", "mysql://user:hunter2@host/db", "\xff"])
def test_wrong_address_file_is_named_without_its_content(
    environment: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "address"
    environment.setenv("CONSUMER_DATABASE_URL_FILE", str(path))
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    errors = refusal(capfd)
    assert errors.startswith("setting CONSUMER_DATABASE_URL_FILE: ")
    assert errors.count("\n") == 1
    assert "hunter2" not in errors


def test_address_and_file_together_or_neither_are_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capfd) == "setting CONSUMER_DATABASE_URL: is not set\n"
    path = tmp_path / "address"
    path.write_text(ADDRESS)
    environment.setenv("CONSUMER_DATABASE_URL_FILE", str(path))
    environment.setenv("CONSUMER_DATABASE_URL", ADDRESS)
    assert refusal(capfd).startswith("setting CONSUMER_DATABASE_URL: ")
