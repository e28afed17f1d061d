"""Nothing that belongs to a customer, and no credential, gets into logs, metrics, spans or the problems of others.

Every route is called with recognizable values while every kind of failure happens: malformed input, missing things, a
database that is away, participants that are away, and bugs whose exceptions quote the values.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import structlog

from shared.contracts.scopes import Scope
from shared.http import readiness
from shared.process import logs
from shared.tracing import recording
from shared.tracing.settings import TracingSettings
from tests.infrastructure.databases import Database
from tests.infrastructure.issuer import RSA, RULES, claims, jwk_set, sign
from tests.infrastructure.otlp import CollectingExporter
from tests.infrastructure.services import SCHEMAS, Answer, Client, serving
from tests.infrastructure.waiting import eventually
from tests.integration.identity.conftest import secret_of, serve_all

# A user's id, and what the user may type anywhere: names, ids, keys, numbers of cards, control characters.
USER, PRODUCT, COUPON, KEY = "canary-user", "canary-product", "canary-coupon", "canary-key"
CARD, PASSWORD, ROLE = "4111111111111111", "canary-password", "canary-role"
PERSONAL = (USER, PRODUCT, COUPON, KEY, CARD)
TRACED = {"X-Request-Id": "request-1", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
# What shows how a service is made, and where it runs.
INTERNALS = re.compile(
    r"asyncpg|aiohttp|psycopg|pydantic\W|Errno|[A-Z]\w+(Error|Exception)\b|\.py\b|/tmp/|127\.0\.0\.1:1\b"
)
BODIES: list[Any] = [
    {"user_id": USER, "lines": [{"product_id": PRODUCT, "quantity": 1}], "coupon_id": COUPON},
    {"lines": [{"product_id": PRODUCT, "quantity": 1}], "payment": "later"},
    {"product_id": PRODUCT, "name": CARD, "price": 1, "stock": 5},
    {"coupon_id": COUPON, "user_id": USER, "kind": "fixed", "value": 1},
    {"amount": 100},
    {"delta": 1},
    {"name": CARD},
    {"reason": "canaries", "dry_run": True},
    {"topic": "again", "reason": "canaries", "order_id": str(uuid.uuid4())},
    {USER: CARD, "amount": PRODUCT},  # unknown members, and values of the wrong type
    {"user_id": f"{USER}\x00", "amount": f"{CARD}\x00", "name": [CARD], "delta": CARD},
    {"commands": [{"type": "debit", "order_id": str(uuid.uuid4()), "user_id": USER, "amount": CARD}]},
    f'{{"user_id": "{USER}", "user_id": "{CARD}"}}'.encode(),
    f'{{"user_id": "{USER}'.encode(),
    f"{CARD}".encode(),
    {},
]


class Lines(list[str]):
    """Takes the lines of the log."""

    write = list.append


@pytest.fixture(scope="module")
def lines() -> Iterator[Lines]:
    """Collect the log at its most talkative, rendered as in production; restore the settings."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    collected = Lines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "LineWriter", lambda _descriptor: collected)
        for name in ("name", "loggers"):  # `configure` sets them
            patch.setattr(logs._Level, name, getattr(logs._Level, name))
        logs.configure("canaries", "debug")
        structlog.configure(cache_logger_on_first_use=False)  # later tests set up their own
        yield collected
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    structlog.configure(**before)


@pytest.fixture(scope="module")
def tokens() -> list[str | None]:
    """Return credentials: a user's, an operator's with every scope, a forged one, and none."""
    valid = {"sub": USER, "exp": time.time() + 600, "nbf": time.time() - 1}
    every = " ".join(scope.value for scope in Scope)
    forged = sign(claims(**valid)).rsplit(".", 1)[0] + ".Y2FuYXJ5"
    return [sign(claims(**valid)), sign(claims(**{**valid, "sub": "olga", "scope": every})), forged, None]


@pytest.fixture(scope="module")
def spans() -> Iterator[CollectingExporter]:
    """Record every request, and collect the spans as they are exported."""
    exporter = CollectingExporter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with recording.exported("canaries", TracingSettings(), exporter):
            yield exporter


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(
    lines: Lines,
    spans: CollectingExporter,
    database: Database,
    kafka_bootstrap: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[dict[str, Client]]:
    """Serve everything in jwt mode with a full access log, and an order service whose database is away."""
    folder = tmp_path_factory.mktemp("keys")
    assert isinstance(lines, Lines)
    assert spans.spans == []
    async with AsyncExitStack() as stack:
        clients = await serve_all(stack, database, kafka_bootstrap, folder, access_log="all")
        yield clients


async def call_everything(clients: dict[str, Client], tokens: list[str | None]) -> list[Answer]:
    """Call every route with everything above; return the answers."""
    answers = []
    for name, client in clients.items():
        document = await client.get("/openapi.json")
        calls = [(method, path) for path, methods in document["paths"].items() for method in methods]
        known = [secret_of("order", name.removesuffix(" internal"))] if name.endswith(" internal") else tokens[:2]
        for method, template in [*calls, ("get", f"/{USER}/{CARD}"), ("delete", "/v1/accounts/{user_id}")]:
            well_formed, *others = paths(template)
            bodies = BODIES if method in ("post", "patch") else [None]
            for credential, body in [*product(known[-1:], bodies), *product(known[:-1], bodies[:5])]:
                answers.append(await send(client, method, well_formed, body, credential))
            for path, credential in product([well_formed, *others], tokens[1:]):
                answers.append(await send(client, method, path, bodies[0], credential))
            answers.append(await send(client, "options", well_formed, None, known[0]))
    return answers


def paths(template: str) -> Iterator[str]:
    """Yield paths with the canaries in the places of the parameters, and in the query."""
    names = {"user_id": USER, "product_id": PRODUCT, "coupon_id": COUPON}
    yield re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], str(uuid.uuid4())), template)
    yield re.sub(r"\{(\w+)\}", USER, template) + f"?user_id={USER}&cursor={CARD}&{USER}={CARD}"
    yield re.sub(r"\{(\w+)\}", f"{USER}%00{CARD}", template)


async def send(client: Client, method: str, path: str, body: Any, token: str | None) -> Answer:
    headers = {**TRACED, "Idempotency-Key": f"{KEY}-{uuid.uuid4()}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if isinstance(body, bytes):
        return await client.call(method, path, data=body, headers={**headers, "Content-Type": "application/json"})
    return await client.call(method, path, body, headers=headers)


def check_log(lines: Lines, credentials: list[str]) -> None:
    """Fail if the log holds something of a user, or a credential."""
    found = [line for line in lines if any(value in line for value in (*PERSONAL, *credentials))]
    assert not found, found[:3]


def check_problems(answers: list[Answer], credentials: list[str]) -> None:
    """Fail if a problem shows how the service is made, or a credential; or a header shows more than the trace."""
    for answer in answers:
        assert not any(value in json.dumps(answer.body) for value in credentials), answer
        assert answer.headers["X-Request-Id"] == TRACED["X-Request-Id"]
        assert answer.headers["traceparent"] == TRACED["traceparent"]
        if answer.status >= 400 and answer.content_type == "application/problem+json":
            texts = [answer.body["detail"], answer.body["title"]]
            texts += [error["message"] for error in answer.body.get("errors", ())]
            assert not [text for text in texts if INTERNALS.search(text)], answer
            others = {name: value for name, value in answer.headers.items() if name != "Location"}
            assert not any(value in str(others) for value in PERSONAL), answer


async def check_spans(spans: CollectingExporter, credentials: list[str]) -> None:
    """Fail if a span holds something of a user, a credential, or the text of an error."""

    async def bugs() -> bool:
        return any(span.attributes.get("http.response.status_code") == 500 for span in spans.spans)

    await eventually(bugs, 10, "the spans of the bugs")
    texts = [json.dumps([span.name, span.attributes, *span.events]) for span in spans.spans]
    assert not [text for text in texts if any(value in text for value in (*PERSONAL, *credentials))]
    assert not [text for text in texts if "violates check constraint" in text]
    assert {span.name for span in spans.spans} > {"POST /v1/orders", "GET /v1/accounts/{user_id}", "batch starts"}


async def metrics(clients: dict[str, Client]) -> str:
    async with clients["order internal"]._session.get("/metrics") as response:  # one registry in this process
        return await response.text()


@pytest.mark.asyncio(loop_scope="module")
async def test_no_value_of_a_user_leaves_by_logs_metrics_spans_or_problems(
    lines: Lines,
    spans: CollectingExporter,
    clients: dict[str, Client],
    database: Database,
    tokens: list[str | None],
) -> None:
    credentials = [token.rsplit(".", 1)[1] for token in tokens if token] + ["secret-of-", PASSWORD, ROLE]
    answers = await call_everything(clients, tokens)
    # Then the same while every write is a bug, whose message has the whole row.
    superuser = await asyncpg.connect(database.url)
    for schema in SCHEMAS.values():
        rows = await superuser.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname = $1"
            " AND tablename IN ('products', 'coupons', 'accounts', 'entries', 'orders', 'acts', 'replays')",
            schema,
        )
        for row in rows:
            await superuser.execute(f"ALTER TABLE {row['name']} ADD CONSTRAINT canary CHECK (false) NOT VALID")
    await superuser.close()
    bugs = await call_everything(clients, tokens)
    assert {answer.status for answer in answers} >= {200, 201, 400, 401, 403, 404, 405, 422}
    assert 500 not in {answer.status for answer in answers}
    assert 500 in {answer.status for answer in bugs}
    assert any('"request.failed"' in line and "CheckViolationError" in line for line in lines)
    check_log(lines, credentials)
    check_problems(answers + bugs, credentials)
    await check_spans(spans, credentials)
    shown = await metrics(clients)
    assert not [value for value in (*PERSONAL, *credentials) if value in shown]


@pytest.mark.asyncio(loop_scope="module")
async def test_failure_of_a_dependency_shows_nothing_of_it(
    lines: Lines,
    clients: dict[str, Client],
    tokens: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert clients
    monkeypatch.setattr(readiness, "FIRST_READY_SECONDS", 0.0)  # clients connect although nothing can be served
    keys, secrets = tmp_path / "jwks.json", tmp_path / "missing"
    keys.write_bytes(jwk_set(RSA))
    auth: Any = {
        "auth_mode": "jwt",
        "auth_issuer": RULES.issuer,
        "auth_audience": RULES.audience,
        "auth_jwks": str(keys),
        "access_log": "all",
        "request_deadline_seconds": 1.0,
    }
    credentials = [token.rsplit(".", 1)[1] for token in tokens if token] + ["secret-of-", PASSWORD, ROLE]
    away = f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:1/canary-database"
    others: dict[str, Any] = {f"{name}_url": "http://127.0.0.1:1" for name in ("product", "coupon", "balance")}
    others |= {f"{name}_internal_secret_file": str(secrets) for name in ("product", "coupon", "balance")}
    for name in ("product", "coupon", "balance", "order"):
        async with serving(
            name, away, **auth, **(others if name == "order" else {"internal_secret_file": str(secrets)})
        ) as client:
            answers = await call_everything({name: client}, tokens[:1] * 2 + tokens[1:2] * 2)
            assert 503 in {answer.status for answer in answers}
            check_problems(answers, credentials)
    check_log(lines, credentials)
