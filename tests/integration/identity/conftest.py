"""The five services in jwt mode, on a module's database, with tokens of a test issuer."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from services.relay import process as relay
from services.relay.settings import RelaySettings
from tests.infrastructure.databases import Database
from tests.infrastructure.issuer import RSA, RULES, claims, jwk_set, sign
from tests.infrastructure.services import SCHEMAS, Answer, Client, migrate_service, running, serving
from tests.infrastructure.waiting import free_port

Token = Callable[..., str]


@pytest.fixture(scope="session")
def token() -> Token:
    """Return what makes a valid token of a user, with scopes that are separated by spaces."""

    def make(subject: str, scope: str = "", **changes: Any) -> str:
        now = time.time()
        return sign(claims(sub=subject, scope=scope, exp=now + 600, nbf=now - 1, **changes))

    return make


@dataclass(frozen=True, slots=True)
class Services:
    """A client for each service, and for the operators' APIs of order and relay."""

    clients: Mapping[str, Client]
    token: Token

    async def call(
        self, service: str, method: str, path: str, subject: str | None, scope: str = "", body: Any = None
    ) -> Answer:
        """Send a request as a user, or as nobody for None."""
        headers = {} if subject is None else {"Authorization": f"Bearer {self.token(subject, scope)}"}
        return await self.clients[service].call(method, path, body, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(
    database: Database, kafka_bootstrap: str, token: Token, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    """Serve everything in jwt mode."""
    async with AsyncExitStack() as stack:
        yield Services(await serve_all(stack, database, kafka_bootstrap, tmp_path_factory.mktemp("keys")), token)


def secret_of(caller: str, service: str) -> str:
    """Return the secret with which `caller` calls `service`."""
    return f"secret-of-{caller}-for-{service}".ljust(40, "-")


async def serve_all(
    stack: AsyncExitStack, database: Database, kafka: str, folder: Path, **more: Any
) -> dict[str, Client]:
    """Serve everything until the stack is closed."""
    keys = folder / "jwks.json"
    keys.write_bytes(jwk_set(RSA))
    auth: dict[str, Any] = {
        **more,
        "auth_mode": "jwt",
        "auth_issuer": RULES.issuer,
        "auth_audience": RULES.audience,
        "auth_jwks": str(keys),
    }
    urls = {name: migrate_service(name, database) for name in SCHEMAS}
    enter = stack.enter_async_context
    clients, others = {}, {}
    for name in ("product", "coupon", "balance"):
        secrets = folder / f"{name}-secrets"
        secrets.write_text(f"order {secret_of('order', name)}\naudit {secret_of('audit', name)}\n")
        internal = free_port()
        given: Any = {"internal_port": internal, "internal_secret_file": str(secrets)}
        clients[name] = await enter(serving(name, urls[name], **auth, **given))
        url = others[f"{name}_url"] = f"http://127.0.0.1:{internal}"
        others[f"{name}_internal_secret_file"] = str(secrets)
        clients[f"{name} internal"] = Client(await enter(aiohttp.ClientSession(url)), url)
    admin = {name: free_port() for name in ("order", "relay")}
    ports: Any = {"admin_port": admin["order"], "internal_port": (internal := free_port())}
    clients["order"] = await enter(serving("order", urls["order"], **ports, **auth, **others))
    url = f"http://127.0.0.1:{internal}"
    clients["order internal"] = Client(await enter(aiohttp.ClientSession(url)), url)
    settings: Any = {"kafka_bootstrap_servers": kafka, "topic": "orders.identity", "admin_port": admin["relay"], **auth}
    internal = settings["internal_port"] = free_port()
    chosen = RelaySettings(port=free_port(), database_url=urls["relay"], **settings)
    clients["relay"] = await enter(running(relay.serve, chosen))
    url = f"http://127.0.0.1:{internal}"
    clients["relay internal"] = Client(await enter(aiohttp.ClientSession(url)), url)
    for name, port in admin.items():
        url = f"http://127.0.0.1:{port}"
        clients[f"{name} admin"] = Client(await enter(aiohttp.ClientSession(url)), url)
    return clients
