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


TWO = "orders.v1=http://relay-0:8005/ orders.c01.v1=https://relay-1:8005"


def test_one_topic_has_one_relay_and_several_have_theirs(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CONSUMER_DATABASE_URL", ADDRESS)
    assert load().sources == {"orders.v1": "http://127.0.0.1:8005"}
    environment.setenv("CONSUMER_TOPICS", TWO)
    assert load().sources == {"orders.v1": "http://relay-0:8005", "orders.c01.v1": "https://relay-1:8005"}


@pytest.mark.parametrize(
    ("topics", "other", "message"),
    [
        ("", {}, "names no topic"),
        ("orders.v1", {}, "'orders.v1' is none"),
        ("orders/v1=http://relay", {}, "is none"),
        ("orders.v1=relay:8005", {}, "is none"),
        ("a=http://relay-0 a=http://relay-1", {}, "twice"),
        ("a=http://relay-0 b=http://relay-0/", {}, "names the relay of b for another topic"),
        ("a=http://relay-0 a.watermarks=http://relay-1", {}, "belongs to a"),
        (TWO, {"CONSUMER_TOPIC": "orders.v2"}, "CONSUMER_TOPIC or CONSUMER_RELAY_URL as well"),
        (TWO, {"CONSUMER_RELAY_URL": "http://relay-0:8005"}, "CONSUMER_TOPIC or CONSUMER_RELAY_URL as well"),
    ],
)
def test_topics_that_contradict_each_other_or_other_settings_are_refused(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], topics: str, other: dict[str, str], message: str
) -> None:
    environment.setenv("CONSUMER_DATABASE_URL", ADDRESS)
    for name, value in {**other, "CONSUMER_TOPICS": topics}.items():
        environment.setenv(name, value)
    errors = refusal(capfd)
    assert errors.startswith("setting CONSUMER_TOPICS: ")
    assert message in errors
