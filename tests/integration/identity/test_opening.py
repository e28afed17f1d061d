"""In jwt mode, a process lets clients connect when it is ready, so that no balancer sends it requests too early."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.balance.__main__ import serve
from services.balance.settings import Settings
from shared.http import readiness
from shared.process.stopping import Stop
from tests.infrastructure.databases import Database
from tests.infrastructure.issuer import RSA, RULES, jwk_set, sign
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import eventually, free_ports, listens
from tests.integration.identity.conftest import secret_of

SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Starting:
    """A balance service that starts, and the file in which it looks for the issuer's keys."""

    port: int
    internal_port: int
    keys: Path
    stop: Stop
    process: "asyncio.Task[None]"

    async def opens(self) -> None:
        """Wait until clients can connect."""

        async def accepts() -> bool:
            return listens("127.0.0.1", self.port)

        await eventually(accepts, SECONDS, "the listener for clients")

    async def failing(self) -> set[str] | None:
        """Return which checks of /readyz fail, and None before it answers."""
        try:
            async with aiohttp.request("GET", f"http://127.0.0.1:{self.internal_port}/readyz") as answer:
                checks = (await answer.json())["checks"]
        except aiohttp.ClientConnectionError:
            return None
        return {name for name, result in checks.items() if result != "ok"}


@asynccontextmanager
async def starting(database: Database, folder: Path) -> AsyncIterator[Starting]:
    """Start the service before its issuer has keys, and wait until /readyz says so."""
    port, internal_port = free_ports(2)
    secrets = folder / "secrets"
    secrets.write_text(f"order {secret_of('order', 'balance')}\n")
    keys = folder / "jwks.json"
    given: dict[str, Any] = {
        "port": port,
        "internal_port": internal_port,
        "database_url": migrate_service("balance", database),
        "auth_mode": "jwt",
        "auth_issuer": RULES.issuer,
        "auth_audience": RULES.audience,
        "auth_jwks": str(keys),
        "internal_secret_file": str(secrets),
    }
    stop = Stop(delay_seconds=0.5)
    process = asyncio.create_task(serve(Settings(**given), stop))
    start = Starting(port, internal_port, keys, stop, process)

    async def unready() -> bool:
        return await start.failing() == {"tokens", "listener"}

    try:
        await eventually(unready, SECONDS, "the answer that it is not ready")
        yield start
    finally:
        stop.set()
        async with asyncio.timeout(SECONDS):
            await process


async def test_clients_connect_when_all_checks_have_passed(database: Database, tmp_path: Path) -> None:
    async with starting(database, tmp_path) as start:
        assert not listens("127.0.0.1", start.port)
        start.keys.write_bytes(jwk_set(RSA))

        async def ready() -> bool:
            return await start.failing() == set()

        await eventually(ready, SECONDS, "the answer that it is ready")
        assert listens("127.0.0.1", start.port)  # a balancer that asks /readyz sends requests from now on


async def test_clients_are_told_what_is_wrong_if_a_start_takes_long(
    monkeypatch: pytest.MonkeyPatch, database: Database, tmp_path: Path
) -> None:
    monkeypatch.setattr(readiness, "FIRST_READY_SECONDS", 0.5)
    async with starting(database, tmp_path) as start:
        await start.opens()
        headers = {"Authorization": f"Bearer {sign()}"}
        url = f"http://127.0.0.1:{start.port}/v1/accounts/alice"
        async with aiohttp.request("GET", url, headers=headers) as answer:
            assert answer.status == 503
            assert "Retry-After" in answer.headers


async def test_process_that_has_to_stop_lets_no_client_connect_any_more(database: Database, tmp_path: Path) -> None:
    async with starting(database, tmp_path) as start:
        start.stop.request()

        async def ended() -> bool:
            assert not listens("127.0.0.1", start.port)
            return start.process.done()

        await eventually(ended, SECONDS, "the end of the process")
