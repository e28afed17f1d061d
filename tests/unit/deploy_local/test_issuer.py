"""The development issuer's tokens are accepted, and it says that it is for development only."""

from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from deploy.issuer.__main__ import WARNING, Issuer, main, read_or_create_key
from shared.identity.callers import Caller
from shared.identity.tokens import TokenRefused, TokenRules, read_keys, verify

RULES = TokenRules("http://issuer.test", "orders", ("ES256",))


async def test_token_is_accepted_with_the_published_key(tmp_path: Path) -> None:
    issuer = Issuer(read_or_create_key(tmp_path / "key.pem"), RULES.issuer, RULES.audience)
    token = issuer.token("alice", "ops catalog:write")
    async with TestClient(TestServer(issuer.application())) as client:
        published = await (await client.get("/jwks")).read()
    assert b'"d"' not in published
    caller = verify(token, read_keys(published), RULES, 1.0)
    assert caller == Caller("alice", frozenset({"ops", "catalog:write"}), caller.expires_at)
    with pytest.raises(TokenRefused):
        verify(token, read_keys(published), TokenRules(RULES.issuer, "others", ("ES256",)), 1.0)


async def test_issuer_gives_no_tokens_over_http(tmp_path: Path) -> None:
    issuer = Issuer(read_or_create_key(tmp_path / "key.pem"), RULES.issuer, RULES.audience)
    paths = {resource.canonical for resource in issuer.application().router.resources()}
    assert paths == {"/jwks"}
    async with TestClient(TestServer(issuer.application())) as client:
        assert (await client.post("/token", data={"sub": "alice", "scope": "ops"})).status == 404


def test_key_is_kept_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    first, second = read_or_create_key(path), read_or_create_key(path)
    assert first.as_dict(private=True)["d"] == second.as_dict(private=True)["d"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_issuer_says_that_it_is_for_development(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert " ".join(WARNING.split()) in " ".join(capsys.readouterr().out.split())
