"""Services show their settings in effect, and no secret: each field is classified, and what is not is hidden."""

import importlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.http.settings_route import Setting, in_effect
from shared.process.settings import HttpUrl, ServiceSettings, Words, load, variable_of
from shared.secrecy import Public, Secrecy, secrecy

SERVICES = sorted(path.parent.name for path in Path(__file__).parents[2].glob("services/*/settings.py"))
SOUNDS_SECRET = re.compile(r"password|secret|token|key|credential|auth|database_url|dsn")
# What sounds secret and may be shown, besides files: how callers are identified, and by whom.
NO_SECRETS = {"auth_mode", "auth_issuer", "auth_audience", "auth_jwks", "auth_algorithms", "auth_token_types"}
ADDRESS = "postgresql://service:hunter2@host/db"
REQUIRED: dict[str, dict[str, str]] = {"relay": {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}}


def settings_class(service: str) -> type[ServiceSettings]:
    """Return the one class of settings of a service."""
    module = importlib.import_module(f"services.{service}.settings")
    (found,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, ServiceSettings) and member.__module__ == module.__name__
    )
    return found


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return an environment without a setting of a service."""
    for service in SERVICES:
        for name in settings_class(service).model_fields:
            monkeypatch.delenv(variable_of(settings_class(service), name), raising=False)
    return monkeypatch


def in_effect_of(settings: BaseSettings) -> dict[str, Setting]:
    return {item.variable: item for item in in_effect(settings).items}


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_is_classified_as_shown_or_hidden(service: str) -> None:
    fields = settings_class(service).model_fields
    unclassified = [name for name, field in fields.items() if secrecy(field) is None]
    assert not unclassified, "say Public[…] or Secret[…] of these texts (shared/secrecy.py)"


@pytest.mark.parametrize("service", SERVICES)
def test_setting_that_sounds_secret_is_hidden_or_the_path_of_a_file(service: str) -> None:
    shown = {name for name, field in settings_class(service).model_fields.items() if secrecy(field) is Secrecy.PUBLIC}
    wrong = {name for name in shown - NO_SECRETS if SOUNDS_SECRET.search(name) and not name.endswith("_file")}
    assert not wrong


@pytest.mark.parametrize("service", SERVICES)
def test_addresses_of_databases_and_passwords_are_hidden(service: str) -> None:
    fields = settings_class(service).model_fields
    hidden = {name for name, field in fields.items() if secrecy(field) is Secrecy.SECRET}
    assert hidden == {"database_url"} | (
        {"listen_database_url", "kafka_sasl_password"} if service == "relay" else set()
    )


class Example(BaseSettings):
    """Settings of every kind. A new text is not marked."""

    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    number: Annotated[float, Field(gt=0)] = 2.5
    switch: bool = True
    choice: Literal["a", "b"] | None = None
    file: Path | None = None
    words: Words = ("a", "b")
    marked: Annotated[Public[str] | None, Field(min_length=1)] = None
    peer_url: HttpUrl = "http://peer"
    password: SecretStr | None = None
    api_token: str | None = None
    api_tokens: tuple[str, ...] | None = None


CLASSES = {
    "number": Secrecy.PUBLIC,
    "switch": Secrecy.PUBLIC,
    "choice": Secrecy.PUBLIC,
    "file": Secrecy.PUBLIC,
    "words": Secrecy.PUBLIC,
    "marked": Secrecy.PUBLIC,
    "peer_url": Secrecy.PUBLIC,
    "password": Secrecy.SECRET,
    "api_token": None,
    "api_tokens": None,
}


def test_numbers_choices_and_paths_may_be_shown_and_texts_only_if_marked() -> None:
    assert {name: secrecy(field) for name, field in Example.model_fields.items()} == CLASSES


def test_new_setting_that_nobody_has_classified_is_hidden() -> None:
    shown = in_effect(Example(password=SecretStr("hunter2"), api_token="hunter2", api_tokens=("hunter2",)))
    assert shown.hidden == ["EXAMPLE_PASSWORD", "EXAMPLE_API_TOKEN", "EXAMPLE_API_TOKENS"]
    assert "hunter2" not in shown.model_dump_json()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://me:hunter2@peer", id="password"),
        pytest.param("https://hunter2@peer/a", id="user"),
        pytest.param("https://peer/keys?key=hunter2", id="query"),
        pytest.param("https://peer#hunter2", id="fragment"),
    ],
)
def test_url_that_has_more_than_a_place_is_hidden(url: str) -> None:
    for settings in (Example(peer_url=url), Example(words=("a", url)), Example(marked=f"see {url}")):
        shown = in_effect(settings)
        assert len(shown.hidden) == 1
        assert "hunter2" not in shown.model_dump_json()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8002", "https://issuer.example/realms/a/jwks.json", "https://[::1]:1/"]
)
def test_url_of_a_place_is_shown(url: str) -> None:
    assert in_effect_of(Example(marked=url))["EXAMPLE_MARKED"].value == url


def test_value_is_written_as_in_the_environment_and_compared_with_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"NUMBER": "7.0", "SWITCH": "off", "CHOICE": "b", "PEER_URL": "http://peer/"}.items():
        monkeypatch.setenv(f"EXAMPLE_{name}", value)
    shown = {item.variable.removeprefix("EXAMPLE_"): item for item in in_effect(load(Example)).items}
    written: dict[str, Any] = {name: (item.value, item.default, item.differs) for name, item in shown.items()}
    assert written == {
        "NUMBER": ("7", "2.5", True),
        "SWITCH": ("false", "true", True),
        "CHOICE": ("b", None, True),
        "FILE": (None, None, False),
        "WORDS": ("a b", "a b", False),
        "MARKED": (None, None, False),
        "PEER_URL": ("http://peer", "http://peer", False),
    }


@pytest.mark.parametrize("service", SERVICES)
def test_shown_settings_are_accepted_by_another_process(service: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(f"{service.upper()}_DATABASE_URL", ADDRESS)
    environment.setenv("AUTH_MODE", "open")
    for name, value in REQUIRED.get(service, {}).items():
        environment.setenv(name, value)
    first = load(settings_class(service))
    shown = in_effect(first)
    assert shown.hidden == [f"{service.upper()}_DATABASE_URL"]
    assert "hunter2" not in shown.model_dump_json()
    for item in shown.items:
        if item.value is not None:
            environment.setenv(item.variable, item.value)
    assert load(settings_class(service)) == first
    assert {item.variable for item in shown.items if item.differs} == {"AUTH_MODE", *REQUIRED.get(service, {})}
