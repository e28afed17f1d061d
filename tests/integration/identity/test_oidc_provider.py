"""Tokens of an issuer that nobody here wrote, the npm package oidc-provider, are accepted as the development one's."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc.jwk import RSAKey

from shared.identity import keys
from tests.infrastructure.broker import put_in_place
from tests.infrastructure.databases import Database
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.services import Answer, Client, migrate_service, serving
from tests.infrastructure.waiting import eventually, free_port, listens

SOURCES = Path(__file__).parents[2] / "infrastructure" / "oidc_provider"
CACHE = Path(__file__).parents[3] / ".local" / "oidc-provider"
NODE_MINIMUM = 18
SCOPES = "catalog:write ops:read"
CLIENT = {"Authorization": aiohttp.encode_basic_auth("shop", "a%20secret%20of%20the%20tests")}  # RFC 6749, 2.3.1
PRODUCT = {"name": "Tea", "price": 1, "stock": 1}


def missing() -> str | None:
    """Return why the package can't be run here, None if it can. Downloads it the first time, to its own folder."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "node or npm is missing"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip("v\n").partition(".")[0]) < NODE_MINIMUM:
        return f"Node.js is older than {NODE_MINIMUM}"
    if installed().exists():
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
        for name in ("package.json", "package-lock.json", "serve.mjs"):
            shutil.copy(SOURCES / name, unfinished)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, check=False, timeout=110)
        if result.returncode != 0:
            return f"npm cannot fetch oidc-provider: {result.stderr[:500]}"
        place = Path(unfinished) / "complete"
        place.mkdir()
        for name in ("package.json", "serve.mjs", "node_modules"):
            (Path(unfinished) / name).rename(place / name)
        put_in_place(place, installed())
    return None


def installed() -> Path:
    """Return the folder of the package; it changes with what is in it."""
    content = b"".join((SOURCES / name).read_bytes() for name in ("package-lock.json", "serve.mjs"))
    return CACHE / hashlib.sha256(content).hexdigest()[:12]


@pytest.fixture
def folder() -> Path:
    """Return the package's folder. Without it, skip the test; in CI, fail it."""
    why = missing()
    if why is not None:
        cannot_run(why)
    return installed()


def private_key(kid: str) -> dict[str, Any]:
    return dict(RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}).as_dict(private=True))


@asynccontextmanager
async def issuing(folder: Path, port: int, *signing: dict[str, Any]) -> AsyncIterator[None]:
    """Run the issuer with these keys; the first one signs."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"keys": signing}, file)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            *("node", "serve.mjs", str(port), file.name, "orders", SCOPES),
            cwd=folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

        async def accepts() -> bool:
            assert process.returncode is None, "the issuer has ended"
            return listens("127.0.0.1", port)

        try:
            await eventually(accepts, 30, "the issuer's start")
            yield
        finally:
            process.kill()
            await process.wait()


async def token_of(issuer: str, **form: str) -> str:
    """Return an access token for the issuer's client."""
    form["grant_type"] = "client_credentials"
    async with aiohttp.ClientSession(headers=CLIENT) as session, session.post(f"{issuer}/token", data=form) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return str(answer["access_token"])


async def discover(issuer: str) -> dict[str, Any]:
    """Return the issuer's description of itself."""
    url = f"{issuer}/.well-known/openid-configuration"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_tokens_of_another_issuer_are_accepted_and_its_key_rotation_is_followed(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)
    port = free_port()
    issuer, first, second = f"http://127.0.0.1:{port}", private_key("first"), private_key("second")
    (tmp_path / "secrets").write_text(f"order {'s' * 40}\n")

    async def new_token() -> str:
        return await token_of(issuer, resource="urn:orders", scope="catalog:write")

    async with AsyncExitStack() as stack:
        async with issuing(folder, port, first):
            found = await discover(issuer)
            settings: Any = {
                "auth_mode": "jwt",
                "auth_issuer": found["issuer"],
                "auth_audience": "orders",
                "auth_jwks": found["jwks_uri"],
                "internal_port": free_port(),
                "internal_secret_file": str(tmp_path / "secrets"),
            }
            url = await asyncio.to_thread(migrate_service, "product", database)
            client = await stack.enter_async_context(serving("product", url, **settings))
            old = await new_token()
            assert (await add(client, old)).status == 201
            refused = await add(client, await token_of(issuer, resource="urn:orders"))
            assert (refused.status, refused.problem) == (403, "forbidden")
            opaque = await token_of(issuer)
            assert "." not in opaque
            refused = await add(client, opaque)
            assert (refused.status, refused.problem) == (401, "unauthenticated")
        async with issuing(folder, port, second, first):
            assert (await add(client, old)).status == 201
            assert (await add(client, await new_token())).status == 201
        monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.0)
        async with issuing(folder, port, second):

            async def withdrawn() -> bool:
                # A token that was not seen before makes the service look for keys.
                assert (await add(client, await new_token())).status == 201
                return (await add(client, old)).status == 401

            await eventually(withdrawn, 20, "the end of the first key's tokens")


async def add(client: Client, token: str) -> Answer:
    """Add a product."""
    return await client.call("POST", "/v1/products", PRODUCT, headers={"Authorization": f"Bearer {token}"})
