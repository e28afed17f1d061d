"""The reference consumer's credentials: which settings it refuses, and files that are replaced while it runs."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from deploy.consumer import reader as module
from deploy.consumer.access import secret
from deploy.consumer.reader import Reader
from deploy.consumer.relay import Relay
from deploy.consumer.runtime import Unavailable
from deploy.consumer.settings import ConsumerSettings, load
from tests.infrastructure.authority import Authority
from tests.unit.consumer.database import Database

REQUIRED = {"CONSUMER_DATABASE_URL": "postgresql://nowhere", "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1"}
SCRAM = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "consumer",
}
UNUSABLE = {"": "is empty", "\n": "is empty", "one\ntwo\n": "must have one line", "one\x00": "must have one line"}


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> ConsumerSettings:
    for name, value in (REQUIRED | values).items():
        monkeypatch.setenv(name, value)
    return ConsumerSettings()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "KAFKA_SECURITY_PROTOCOL"),
        ({"KAFKA_SASL_MECHANISM": "PLAIN"}, "KAFKA_SASL_MECHANISM"),
        ({"KAFKA_SASL_USERNAME": "consumer"}, "KAFKA_SASL_USERNAME"),
        ({"KAFKA_SASL_PASSWORD": "hidden"}, "KAFKA_SASL_PASSWORD_FILE"),
        ({"KAFKA_SASL_PASSWORD_FILE": __file__}, "KAFKA_SASL_PASSWORD_FILE"),
        (SCRAM, "KAFKA_SASL_PASSWORD_FILE"),
        (SCRAM | {"KAFKA_SASL_PASSWORD": "x", "KAFKA_SASL_PASSWORD_FILE": __file__}, "KAFKA_SASL_PASSWORD_FILE"),
        (SCRAM | {"KAFKA_SASL_PASSWORD_FILE": __file__}, "must have one line"),
        (SCRAM | {"KAFKA_SASL_PASSWORD_FILE": os.devnull}, "KAFKA_SASL_PASSWORD_FILE"),
        (SCRAM | {"KAFKA_SASL_PASSWORD": "x", "KAFKA_SASL_MECHANISM": "GSSAPI"}, "KAFKA_SASL_MECHANISM"),
        ({"KAFKA_SSL_CA_FILE": __file__}, "KAFKA_SSL_CA_FILE"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA_FILE": __file__}, "KAFKA_SSL_CA_FILE"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY_FILE": __file__}, "set both or neither"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CERTIFICATE_FILE": __file__}, "set both or neither"),
    ],
)
def test_wrong_access_to_kafka_is_named_at_start_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], values: dict[str, str], named: str
) -> None:
    for name, value in (REQUIRED | values).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load()
    output = capsys.readouterr().err
    assert named in output
    assert "hidden" not in output


def test_client_gets_the_options_of_scram_over_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("a secret \r\n")
    values = {**SCRAM, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_PASSWORD_FILE": str(file)}
    options = settings(monkeypatch, **values).kafka_options()
    assert options.pop("ssl_context").check_hostname
    assert options == {
        "bootstrap_servers": "nowhere:1",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "consumer",
        "sasl_plain_password": "a secret ",
    }


def test_password_is_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hidden" not in repr(settings(monkeypatch, **SCRAM, KAFKA_SASL_PASSWORD="hidden"))


@pytest.mark.parametrize("text", UNUSABLE, ids=["empty", "blank", "two lines", "NUL"])
def test_secret_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secret"
    file.write_text(text)
    with pytest.raises(ValueError, match=UNUSABLE[text]):
        secret(file)


class Client:
    """Stands in for the library's client, which has no records."""

    made: list[dict[str, Any]]

    def __init__(self, **options: Any) -> None:
        type(self).made.append(options)
        self.stopped = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def subscribe(self, **_: Any) -> None:
        pass

    async def getmany(self, **_: Any) -> dict[Any, Any]:
        return {}

    def assignment(self) -> set[Any]:
        return set()

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the options of each client that the reader makes."""
    Client.made = []
    monkeypatch.setattr(module, "AIOKafkaConsumer", Client)
    return Client.made


async def test_reader_connects_again_with_a_password_that_was_replaced(
    monkeypatch: pytest.MonkeyPatch, made: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    pool: Any = Database()
    reader = Reader(settings(monkeypatch, **SCRAM, KAFKA_SASL_PASSWORD_FILE=str(file)), pool)
    for _ in range(2):
        await reader.read()
    file.unlink()
    await reader.read()
    assert len(made) == 1, "while the file is missing, the client goes on"
    file.write_text("new\n")
    for _ in range(2):
        await reader.read()
    assert [options["sasl_plain_password"] for options in made] == ["old", "new"]
    file.write_text("two\nlines")
    with pytest.raises(Unavailable, match=r"credentials can't be read: .*must have one line"):
        await reader.read()
    with pytest.raises(Unavailable, match="must have one line"):
        await reader.check()
    file.write_text("newest")
    await reader.read()
    await reader.check()
    assert made[-1]["sasl_plain_password"] == "newest"


@asynccontextmanager
async def relay_api(tokens: list[str | None]) -> AsyncIterator[str]:
    """Serve empty lists of events, and note the credential of each call; only one that names `good` is accepted."""

    async def answer(request: web.Request) -> web.Response:
        tokens.append(request.headers.get("Authorization"))
        if "good" not in (tokens[-1] or ""):
            return web.json_response({}, status=401)
        return web.json_response({"items": [], "next_cursor": None})

    app = web.Application()
    app.router.add_get("/v1/events", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


def replaced(file: Path, text: str) -> None:
    """Replace a file as an orchestrator does."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


async def test_token_for_the_relay_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, tokens = tmp_path / "token", list[str | None]()
    async with relay_api(tokens) as url:
        there = settings(monkeypatch, CONSUMER_RELAY_URL=url, CONSUMER_RELAY_TOKEN_FILE=str(file))
        async with Relay(there) as relay:
            for token in ("good.one", "good.two\n"):
                replaced(file, token)
                assert await relay.events_of_order(uuid4()) == []
            replaced(file, "bad")
            with pytest.raises(Unavailable, match=r"the relay refuses our token, .*events:read: 401"):
                await relay.events_of_order(uuid4())
    assert tokens == ["Bearer good.one", "Bearer good.two", "Bearer bad"]


def missing(file: Path) -> None:
    file.unlink()


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (missing, "No such file"),
    "empty": (lambda file: replaced(file, ""), "is empty"),
    "blank": (lambda file: replaced(file, " \n"), "is empty"),
    "several lines": (lambda file: replaced(file, "good\ngood\n"), "must have one line"),
    "not text": (lambda file: file.write_bytes(b"good\xff"), "can't decode"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_unusable_token_is_named_without_a_call_and_the_next_file_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    file, tokens = tmp_path / "token", list[str | None]()
    file.write_text("good")
    spoil, reason = BROKEN[name]
    async with relay_api(tokens) as url:
        there = settings(monkeypatch, CONSUMER_RELAY_URL=url, CONSUMER_RELAY_TOKEN_FILE=str(file))
        async with Relay(there) as relay:
            await relay.events_of_order(uuid4())
            spoil(file)
            with pytest.raises(Unavailable, match=rf"the token for the relay can't be read: .*{reason}"):
                await relay.events_of_order(uuid4())
            assert len(tokens) == 1
            replaced(file, "good.again")
            await relay.events_of_order(uuid4())
    assert tokens[-1] == "Bearer good.again"


def test_context_for_the_relay_is_made_anew_after_its_files_were_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("consumer")
    files = {"CA": str(authority.file), "CERTIFICATE": certificate, "KEY": key}
    named = {f"CONSUMER_RELAY_{name}_FILE": file for name, file in files.items()}
    tls = Relay(settings(monkeypatch, **named))._tls
    first: Any = tls.context()
    assert len(first.get_ca_certs()) == 1, "not the machine's"
    assert tls.context() is first
    authority.issue("consumer")
    assert tls.context() is not first
