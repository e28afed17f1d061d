"""The consumer calls the relay over TLS, with a certificate and a token, and reads all of their files again."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from deploy.consumer.relay import Relay
from deploy.consumer.runtime import Unavailable
from deploy.consumer.settings import ConsumerSettings, load
from tests.infrastructure.authority import Authority
from tests.infrastructure.waiting import free_port

NOW = datetime(2026, 1, 5, tzinfo=UTC)
TOKEN = "the-token-of-the-consumer"


class StandIn:
    """A relay that requires a certificate and a token, and records who called."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.callers: list[Any] = []
        self.port = free_port()
        self.token = TOKEN

    async def digests(self, request: web.Request) -> web.Response:
        """Answer with no digest."""
        self.callers.append(request.get_extra_info("peercert")["subjectAltName"])
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({}, status=401)
        return web.json_response({"items": [], "next_from": None})


@pytest_asyncio.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[StandIn]:
    authority = Authority(tmp_path)
    relay = StandIn(authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*authority.issue("relay"))
    app = web.Application()
    app.router.add_get("/v1/digests", relay.digests)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", relay.port, ssl_context=context).start()
    yield relay
    await runner.cleanup()


def settings(relay: StandIn, folder: Path, **changes: Any) -> ConsumerSettings:
    """Return settings with a certificate and a token for the relay."""
    certificate, key = relay.authority.issue("consumer", ["consumer"])
    (folder / "token").write_text(TOKEN)
    values = {
        "database_url": "postgresql://nowhere",
        "kafka_bootstrap_servers": "nowhere:1",
        "relay_url": f"https://localhost:{relay.port}",
        "relay_token_file": str(folder / "token"),
        "relay_ca_file": str(relay.authority.file),
        "relay_certificate_file": certificate,
        "relay_key_file": key,
    }
    return ConsumerSettings.model_validate(values | changes)


@contextmanager
def without(file: Path) -> Iterator[None]:
    """Let a file be missing for the body."""
    aside = file.rename(f"{file}.aside")
    yield
    aside.rename(file)


async def test_replaced_certificate_and_token_are_used_in_the_next_call(stand_in: StandIn, tmp_path: Path) -> None:
    async with Relay(settings(stand_in, tmp_path)) as relay:
        for _ in range(2):
            assert await relay.digests(NOW, NOW) == ([], 4, None)
        stand_in.authority.issue("consumer", ["successor"])
        stand_in.token = "another-token-of-the-consumer"
        with pytest.raises(Unavailable, match="refuses our token"):
            await relay.digests(NOW, NOW)
        (tmp_path / "token").write_text(f"{stand_in.token}\n")
        assert await relay.digests(NOW, NOW) == ([], 4, None)
    names = [caller[0][1] for caller in stand_in.callers]
    assert names == ["consumer", "consumer", "successor", "successor"]


@pytest.mark.parametrize("broken", ["certificate", "token"])
async def test_broken_file_is_named_and_heals(stand_in: StandIn, tmp_path: Path, broken: str) -> None:
    chosen = settings(stand_in, tmp_path)
    file = Path({"certificate": chosen.relay_certificate_file, "token": chosen.relay_token_file}[broken] or "")
    async with Relay(chosen) as relay:
        with without(file), pytest.raises(Unavailable, match=str(file)):
            await relay.digests(NOW, NOW)
        assert await relay.digests(NOW, NOW) == ([], 4, None)


async def test_relay_with_a_certificate_of_another_authority_is_not_called(stand_in: StandIn, tmp_path: Path) -> None:
    other = str(Authority(tmp_path, "stranger").file)
    async with Relay(settings(stand_in, tmp_path, relay_ca_file=other)) as relay:
        with pytest.raises(Unavailable, match="ClientConnectorCertificateError"):
            await relay.digests(NOW, NOW)
    assert not stand_in.callers


def test_wrong_files_for_tls_are_named_at_start(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("consumer", password=b"secret")

    def refused(**environment: str) -> list[str]:
        with monkeypatch.context() as changed:
            for name, value in {
                "CONSUMER_DATABASE_URL": "postgresql://nowhere",
                "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
                **environment,
            }.items():
                changed.setenv(name, value)
            with pytest.raises(SystemExit):
                load()
        return [line.split(":")[0].removeprefix("setting ") for line in capfd.readouterr().err.splitlines()]

    assert refused(CONSUMER_RELAY_CA_FILE=key) == ["CONSUMER_RELAY_CA_FILE"]
    assert refused(CONSUMER_RELAY_CERTIFICATE_FILE=certificate) == ["CONSUMER_RELAY_KEY_FILE"]
    both = {"CONSUMER_RELAY_CERTIFICATE_FILE": certificate, "CONSUMER_RELAY_KEY_FILE": key}
    assert refused(**both) == ["CONSUMER_RELAY_KEY_FILE"]  # it has a password
