"""Every service does what its OpenAPI documents say: schemathesis sends what they allow and what they forbid.

`make conformance` runs it, in jwt mode. It needs an environment of its own, so it is no part of `make test`.
"""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from shared.contracts.scopes import Scope
from tests.infrastructure.databases import Database
from tests.integration.identity.conftest import Services, Token, secret_of, serve_all
from tests.integration.identity.conftest import token as token  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(3 * 3600)]

REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / ".venv-conformance" / "bin" / "schemathesis"
CALLS = int(os.environ.get("CALLS") or 2000)
SEED = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(10**6))
# The calls of one round that are the same for each operation, as its limits are, come on top of those made at random.
EXAMPLES = max(2, CALLS // 1000)
AT_ONCE = 2  # the other half of the work is the services', in this process
PUBLIC = ("order", "product", "coupon", "balance", "relay", "order admin", "relay admin")
PARTICIPANTS = ("product", "coupon", "balance")
EVERY_SCOPE = " ".join(scope.value for scope in Scope)
USER = "alice"


@dataclass(frozen=True, slots=True)
class Run:
    """A document with the credential to call it with; `name` is for the report."""

    name: str
    url: str
    credential: str


@pytest_asyncio.fixture(loop_scope="module")
async def runs(services: Services) -> list[Run]:
    """Return a run for each document and kind of caller."""
    tokens = {"every scope": services.token("olga", EVERY_SCOPE), "a user": services.token(USER)}
    urls = {name: client.url for name, client in services.clients.items()}
    listed = [Run(f"{name}, {who}", urls[name], token) for who, token in tokens.items() for name in PUBLIC]
    internal = [Run(f"{name} internal", urls[f"{name} internal"], secret_of("order", name)) for name in PARTICIPANTS]
    return listed + internal


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(
    database: Database, kafka_bootstrap: str, token: Token, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    """Serve everything in jwt mode, with products in stock and a user with money and coupons."""
    async with AsyncExitStack() as stack:
        folder = tmp_path_factory.mktemp("keys")
        served = Services(await serve_all(stack, database, kafka_bootstrap, folder), token)
        for number in range(50):
            product = {"product_id": f"product-{number}", "name": "Tea", "price": number, "stock": 10**9}
            await _created(served, "product", "/v1/products", product)
        await _created(served, "balance", f"/v1/accounts/{USER}/charges", {"amount": 10**9})
        yield served


async def _created(services: Services, service: str, path: str, body: object) -> None:
    answer = await services.call(service, "POST", path, "olga", EVERY_SCOPE, body)
    assert answer.status == 201, answer


async def test_no_answer_contradicts_the_documents(runs: list[Run], tmp_path: Path) -> None:
    print(f"\nSEED={SEED} CALLS={CALLS}")
    calls, seed = 0, SEED
    while calls < CALLS:
        slots = asyncio.Semaphore(AT_ONCE)
        calls += sum(await asyncio.gather(*(_calls(run, seed, slots, tmp_path) for run in runs)))
        seed += 1
    print(f"{calls} calls by {len(runs)} kinds of callers: no finding")


async def _calls(run: Run, seed: int, slots: asyncio.Semaphore, folder: Path) -> int:
    """Return how many calls were made; fail with the report if one of them is a finding."""
    options = ["--checks", "all", "--continue-on-failure", "--generation-database", "none", "--seed", str(seed)]
    header = f"Authorization: Bearer {run.credential}"
    command = [
        str(PROGRAM),
        "--no-color",
        "run",
        f"{run.url}/openapi.json",
        "-H",
        header,
        "-n",
        str(EXAMPLES),
        *options,
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.conformance.exclusions", "PYTHONPATH": str(REPOSITORY)}
    async with slots:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            cwd=folder,
        )
        report = (await process.communicate())[0].decode(errors="replace")
    generated = re.search(r"(\d+) generated", report)
    assert process.returncode == 0, f"{run.name}, seed {seed}:\n{report}"
    assert generated, report
    print(f"{run.name}: {generated[1]} calls")
    return int(generated[1])
