"""Keys are read when they are needed, seldom, and once at a time; verified tokens are remembered until they expire."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from joserfc.jwk import RSAKey
from prometheus_client import REGISTRY

from shared.identity import authenticator, keys
from shared.identity.authenticator import JwtAuthenticator
from shared.identity.callers import InvalidToken, Unauthenticated
from shared.identity.keys import LOOK_AGAIN_SECONDS, LOOK_SECONDS, REFRESH_SECONDS, STALE_SECONDS, IssuerKeys, NoKeys
from tests.infrastructure.issuer import EC, NOW, RSA, RULES, claims, jwk_set, sign


class Issuer:
    """A JWK set that tests change, and what reads it."""

    def __init__(self) -> None:
        self.document = jwk_set(RSA)
        self.failure: Exception | None = None
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = NOW
        self.keys = IssuerKeys(self.read, lambda: self.now)
        self.authenticator = JwtAuthenticator(RULES, self.keys, clock=lambda: self.now)

    async def read(self) -> bytes:
        self.reads += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.document

    async def subject(self, token: str) -> str | None:
        return (await self.authenticator.authenticate(f"Bearer {token}")).subject


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


async def test_first_token_reads_the_keys_and_later_ones_do_not(issuer: Issuer) -> None:
    assert await issuer.subject(sign()) == "alice"
    assert await issuer.subject(sign(claims(sub="bob"))) == "bob"
    assert issuer.reads == 1


async def test_metric_of_keys_that_are_not_in_use_reads_nothing(issuer: Issuer) -> None:
    assert REGISTRY.get_sample_value("issuer_keys_age_seconds") == float("inf")
    await asyncio.sleep(0)
    assert issuer.reads == 0


async def test_concurrent_tokens_share_one_read(issuer: Issuer) -> None:
    issuer.gate.clear()
    waiting = [asyncio.create_task(issuer.subject(sign())) for _ in range(50)]
    await asyncio.sleep(0)
    issuer.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"alice"}
    assert issuer.reads == 1


async def test_new_key_of_the_issuer_is_found(issuer: Issuer) -> None:
    await issuer.subject(sign())
    issuer.document = jwk_set(RSA, EC)
    issuer.now += LOOK_SECONDS
    assert await issuer.subject(sign(claims(exp=issuer.now + 60), key=EC, algorithm="ES256")) == "alice"
    assert issuer.reads == 2


async def test_ten_thousand_unknown_keys_cost_one_read(issuer: Issuer) -> None:
    await issuer.subject(sign())
    issuer.now += LOOK_SECONDS
    token = sign(claims(exp=issuer.now + 60))
    head = sign(kid="unknown").split(".")[0]
    for number in range(10_000):
        with pytest.raises(InvalidToken):
            await issuer.subject(f"{head}.{token.split('.')[1]}.{number}")
    assert issuer.reads == 2


async def test_known_key_is_used_while_a_new_one_is_looked_for(issuer: Issuer) -> None:
    await issuer.subject(sign())
    issuer.gate.clear()
    issuer.now += REFRESH_SECONDS + 1
    assert await issuer.subject(sign(claims(exp=issuer.now + 60))) == "alice"  # and does not wait for the read
    await asyncio.sleep(0)
    assert issuer.reads == 2
    issuer.gate.set()


async def test_issuer_that_is_away_keeps_its_keys_up_to_a_bound(issuer: Issuer) -> None:
    remembered = f"Bearer {sign(claims(exp=NOW + 10 * STALE_SECONDS))}"
    await issuer.authenticator.authenticate(remembered)
    issuer.failure = OSError("no route to the issuer")
    issuer.now += STALE_SECONDS
    assert await issuer.subject(sign(claims(exp=issuer.now + 60))) == "alice"
    issuer.now += 1
    with pytest.raises(NoKeys):
        await issuer.subject(sign(claims(sub="bob", exp=issuer.now + 60)))
    assert issuer.authenticator.known(remembered) is None
    with pytest.raises(NoKeys):
        await issuer.authenticator.authenticate(remembered)
    await issuer.authenticator.checks["tokens"]()  # calls between services need no tokens, so it stays ready
    issuer.failure = None
    issuer.now += LOOK_SECONDS
    assert await issuer.subject(sign(claims(sub="bob", exp=issuer.now + 60))) == "bob"
    assert issuer.authenticator.known(remembered) is not None


async def test_service_that_never_had_keys_is_not_ready(issuer: Issuer) -> None:
    issuer.failure = OSError("no route to the issuer")
    for _ in range(2):
        with pytest.raises(NoKeys):
            await issuer.authenticator.checks["tokens"]()
    issuer.failure = None
    issuer.now += LOOK_SECONDS
    await issuer.authenticator.checks["tokens"]()


async def test_without_usable_keys_they_are_looked_for_each_second(issuer: Issuer) -> None:
    issuer.failure = OSError("no route to the issuer")
    for _ in range(3):  # the first of them reads
        with pytest.raises(NoKeys):
            await issuer.subject(sign())
    assert issuer.reads == 1
    issuer.failure = None
    issuer.now += LOOK_AGAIN_SECONDS
    assert await issuer.subject(sign()) == "alice"


async def test_keys_that_are_too_old_are_looked_for_each_second(issuer: Issuer) -> None:
    await issuer.subject(sign())
    issuer.failure = OSError("no route to the issuer")
    issuer.now += STALE_SECONDS + 1
    with pytest.raises(NoKeys):
        await issuer.subject(sign(claims(exp=issuer.now + 60)))
    issuer.failure = None
    issuer.now += LOOK_AGAIN_SECONDS
    assert await issuer.subject(sign(claims(exp=issuer.now + 60))) == "alice"
    assert issuer.reads == 3


async def test_caller_does_not_wait_for_an_issuer_that_hangs_after_a_failure(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "AFTER_FAILURE_SECONDS", 0.0)
    issuer.failure = OSError("no route to the issuer")
    with pytest.raises(NoKeys):
        await issuer.subject(sign())
    issuer.failure = None
    issuer.now += LOOK_AGAIN_SECONDS
    issuer.gate.clear()
    with pytest.raises(NoKeys):
        await issuer.subject(sign())
    issuer.gate.set()
    await issuer.authenticator.checks["tokens"]()
    assert await issuer.subject(sign()) == "alice"


async def test_failures_in_succession_are_logged_once_in_a_while(issuer: Issuer) -> None:
    issuer.failure = OSError("no route to the issuer")
    with structlog.testing.capture_logs() as logs:
        for _ in range(20):
            issuer.now += LOOK_AGAIN_SECONDS
            with pytest.raises(NoKeys):
                await issuer.subject(sign())
        assert issuer.reads == 20
        assert [line["event"] for line in logs] == ["issuer_keys.unreadable"]
        issuer.now = NOW + LOOK_AGAIN_SECONDS + LOOK_SECONDS
        with pytest.raises(NoKeys):
            await issuer.subject(sign())
        assert len(logs) == 2


async def test_new_key_that_cannot_be_looked_for_refuses_no_token(issuer: Issuer) -> None:
    await issuer.subject(sign())
    issuer.failure = OSError("no route to the issuer")
    issuer.now += LOOK_SECONDS
    for _ in range(2):  # looked for, and then too early to look again
        with pytest.raises(NoKeys):
            await issuer.subject(sign(claims(exp=issuer.now + 60), key=EC, algorithm="ES256"))
    assert await issuer.subject(sign(claims(exp=issuer.now + 60))) == "alice"


@pytest.mark.parametrize(
    "document", [b"", b"<html>", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "eA", "kid": "x"}]}']
)
async def test_document_without_usable_keys_leaves_the_last_ones(issuer: Issuer, document: bytes) -> None:
    await issuer.subject(sign())
    issuer.document = document
    issuer.now += REFRESH_SECONDS + 1
    for _ in range(3):
        assert await issuer.subject(sign(claims(exp=issuer.now + 60))) == "alice"
        await asyncio.sleep(0)
    assert issuer.reads == 2


async def test_issuer_that_hangs_is_given_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.01)
    issuer.gate.clear()
    with pytest.raises(NoKeys):
        await issuer.subject(sign())


async def test_withdrawn_key_ends_the_tokens_that_it_signed(issuer: Issuer) -> None:
    token = sign(claims(exp=NOW + 10_000))
    assert await issuer.subject(token) == "alice"
    issuer.document = jwk_set(RSAKey.generate_key(2048, {"kid": "new"}))
    issuer.now += REFRESH_SECONDS + 1
    assert issuer.authenticator.known(f"Bearer {token}") is not None  # and reads the keys again
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(InvalidToken):
        await issuer.subject(token)


async def test_remembered_token_expires(issuer: Issuer) -> None:
    header = f"Bearer {sign()}"
    caller = await issuer.authenticator.authenticate(header)
    assert issuer.authenticator.known(header) is caller
    issuer.now = caller.expires_at
    assert issuer.authenticator.known(header) is None
    with pytest.raises(InvalidToken):
        await issuer.authenticator.authenticate(header)


async def test_remembered_tokens_are_bounded(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "REMEMBERED_MAX", 3)
    headers = [f"Bearer {sign(claims(sub=f'user-{number}'))}" for number in range(5)]
    for header in headers:
        await issuer.authenticator.authenticate(header)
    assert [issuer.authenticator.known(header) is not None for header in headers] == [False, False, True, True, True]


@pytest.mark.parametrize("header", [None, "", "Basic YTpi", "Bearer", "bearer", "Token x", "x"])
async def test_call_without_a_bearer_token_is_unauthenticated(issuer: Issuer, header: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await issuer.authenticator.authenticate(header)
    assert caught.value.headers["WWW-Authenticate"] == "Bearer" or header in ("Bearer", "bearer")


@pytest.mark.parametrize("start", ["bearer ", "BEARER ", "Bearer  ", "Bearer    "])
async def test_other_spellings_are_accepted_and_not_remembered(issuer: Issuer, start: str) -> None:
    header = f"{start}{sign()}"
    assert (await issuer.authenticator.authenticate(header)).subject == "alice"
    assert issuer.authenticator.known(header) is None


async def test_refused_token_says_only_that_it_is_invalid(issuer: Issuer) -> None:
    changes: list[Callable[[], str]] = [lambda: sign(claims(iss="x")), lambda: sign(kid="x"), lambda: "x.y.z"]
    answers: list[dict[str, Any]] = []
    for change in changes:
        with pytest.raises(InvalidToken) as caught:
            await issuer.subject(change())
        assert caught.value.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        answers.append(caught.value.problem())
    assert answers[0] == answers[1] == answers[2]


async def test_client_certificate_identifies_its_caller_until_it_expires(issuer: Issuer) -> None:
    """A connection that stays open outlives the check of its handshake."""
    known = JwtAuthenticator(RULES, issuer.keys, client_names=["order"], clock=lambda: issuer.now)
    certificate = {"subjectAltName": (("DNS", "order"),), "notAfter": "Jan  5 09:34:43 2030 GMT"}
    expires_at = ssl.cert_time_to_seconds("Jan  5 09:34:43 2030 GMT")
    issuer.now = expires_at
    assert known.internal(None, certificate).subject == "service:order"
    issuer.now = expires_at + 1
    with pytest.raises(Unauthenticated):
        known.internal(None, certificate)
