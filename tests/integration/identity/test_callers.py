"""Who may call what in jwt mode: every route with every kind of caller."""

import re
import uuid

import aiohttp
import pytest

from shared.contracts.scopes import Scope
from tests.integration.identity.conftest import Services, secret_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What each call asks for: "public", "token" for any token, a scope, or "internal" for the services' own calls.
ROUTES: dict[str, dict[str, str]] = {
    "order": {
        "POST /v1/orders": "token",
        "GET /v1/orders": "token",
        "GET /v1/orders/{order_id}": "token",
        "POST /v1/orders/{order_id}/payment": "token",
        "POST /v1/orders/{order_id}/cancel": "token",
        "GET /v1/orders/{order_id}/timeline": "token",
    },
    "order admin": {
        "GET /admin/v1/sagas": "ops:read",
        "GET /admin/v1/sagas/{id}": "ops:read",
        "POST /admin/v1/sagas/retry": "ops",
        "POST /admin/v1/sagas/{id}/retry": "ops",
        "POST /admin/v1/sagas/{id}/force": "ops",
        "POST /admin/v1/sagas/{id}/resolve": "ops",
        "GET /admin/v1/acts": "ops:read",
        "GET /admin/v1/drain-status": "ops:read",
        "GET /admin/v1/leases": "ops:read",
        "POST /admin/v1/audit": "ops",
        "POST /admin/v1/audit/repair": "ops",
    },
    "product": {
        "POST /v1/products": "catalog:write",
        "GET /v1/products": "token",
        "GET /v1/products/{product_id}": "token",
        "PATCH /v1/products/{product_id}": "catalog:write",
        "POST /v1/products/{product_id}/stock": "catalog:write",
    },
    "coupon": {
        "POST /v1/coupons": "coupons:write",
        "GET /v1/coupons": "token",
        "GET /v1/coupons/{coupon_id}": "token",
    },
    "balance": {
        "POST /v1/accounts/{user_id}/charges": "accounts:charge",
        "GET /v1/accounts/{user_id}": "token",
        "GET /v1/accounts/{user_id}/entries": "token",
    },
    "relay": {
        "GET /v1/digests": "events:read",
        "GET /v1/events": "events:read",
        "GET /asyncapi.json": "public",
        "GET /schemas": "public",
        "GET /schemas/{type}.json": "public",
    },
    "relay admin": {
        "GET /admin/v1/parked": "ops:read",
        "POST /admin/v1/parked/retry": "ops",
        "POST /admin/v1/parked/{id}/retry": "ops",
        "POST /admin/v1/parked/{id}/skip": "ops",
        "POST /admin/v1/parked/{id}/redact": "ops",
        "GET /admin/v1/acts": "ops:read",
        "POST /admin/v1/replays": "ops",
        "GET /admin/v1/replays": "ops:read",
        "GET /admin/v1/replays/{id}": "ops:read",
        "POST /admin/v1/replays/{id}/cancel": "ops",
        "POST /admin/v1/replays/{id}/resume": "ops",
    },
}
INTERNAL_ROUTES = {
    "POST /internal/v1/commands": "internal",
    "GET /internal/v1/outcomes/{order_id}": "internal",
    "GET /internal/v1/holds": "internal",
    "GET /internal/v1/books": "internal",
}
SETTINGS = {"GET /internal/v1/settings": "ops:read"}
ROUTES |= {f"{name} internal": SETTINGS for name in ("order", "relay")}
ROUTES |= {f"{name} internal": INTERNAL_ROUTES | SETTINGS for name in ("product", "coupon", "balance")}
SCOPES = [scope.value for scope in Scope]
SECRETS = [secret_of(who, name) for who in ("order", "audit") for name in ("product", "coupon", "balance")]
ALSO = {"orders:read": "orders:write", "ops:read": "ops"}  # scopes that a wider one contains


@pytest.mark.parametrize("service", ROUTES)
async def test_table_names_every_public_call(services: Services, service: str) -> None:
    document = await services.clients[service].get("/openapi.json")
    calls = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert calls == set(ROUTES[service])


async def test_table_names_every_listener(services: Services) -> None:
    assert set(services.clients) == set(ROUTES)


def of_secret(service: str, call: str, needed: str, secret: str, status: int) -> bool:
    """Return whether a call with this secret has got a status that it should get."""
    name = service.removesuffix(" internal")
    if needed != "internal" or secret not in (secret_of("order", name), secret_of("audit", name)):
        return status == 401
    if secret == secret_of("audit", name) and call.startswith("POST"):
        return status == 403
    return status not in (401, 403)


@pytest.mark.parametrize(("service", "call"), [(service, call) for service, calls in ROUTES.items() for call in calls])
async def test_call_is_open_to_exactly_the_callers_of_the_table(services: Services, service: str, call: str) -> None:
    method, template = call.split()
    path = re.sub(r"\{(\w+)\}", lambda name: str(uuid.uuid4()) if name[1].endswith("id") else "x", template)
    needed = ROUTES[service][call]

    async def status(subject: str | None, scope: str = "") -> int:
        return (await services.call(service, method, path, subject, scope)).status

    anonymous = await services.call(service, method, path, None)
    if needed == "public":
        assert anonymous.status not in (401, 403)
        return
    assert (anonymous.status, anonymous.problem) == (401, "unauthenticated")
    assert anonymous.headers["WWW-Authenticate"] == "Bearer"
    for secret in SECRETS:
        headers = {"Authorization": f"Bearer {secret}"}
        answered = (await services.clients[service].call(method, path, headers=headers)).status
        assert of_secret(service, call, needed, secret, answered), (call, secret, answered)
    if needed == "internal":
        for scope in ("", " ".join(SCOPES)):
            assert await status("alice", scope) == 401
        return
    allowed = {needed, ALSO.get(needed, needed)}
    for scope in ("", *SCOPES):
        answered = await status("alice", scope)
        if needed == "token" or scope in allowed:
            assert answered not in (401, 403), (call, scope)
        else:
            assert answered == 403, (call, scope)
    others = " ".join(scope for scope in SCOPES if scope not in allowed)
    refused = await services.call(service, method, path, "alice", others)
    if needed != "token":
        assert (refused.status, refused.problem, refused.body["required_scope"]) == (403, "forbidden", needed)


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ("Bearer x.y.z", 'Bearer error="invalid_token"'),
        ("Bearer ", 'Bearer error="invalid_token"'),
        ("Basic YWxpY2U6eA==", "Bearer"),
        ("", "Bearer"),
    ],
)
async def test_wrong_token_is_challenged(services: Services, header: str, challenge: str) -> None:
    answer = await services.clients["order"].call("GET", "/v1/orders", headers={"Authorization": header})
    assert (answer.status, answer.problem) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == challenge


async def test_two_tokens_in_one_request_are_refused(services: Services) -> None:
    headers = [("Authorization", f"Bearer {services.token(user)}") for user in ("alice", "bob")]
    answer = await services.clients["order"].call("GET", "/v1/orders", headers=headers)
    assert answer.status in (400, 401)


INTERNAL_CALLS = [
    ("POST", "/internal/v1/commands"),
    ("GET", "/internal/v1/books"),
    ("GET", f"/internal/v1/holds?after={uuid.UUID(int=0)}"),
    ("GET", f"/internal/v1/outcomes/{uuid.UUID(int=1)}"),
]


@pytest.mark.parametrize("service", ["product", "coupon", "balance"])
@pytest.mark.parametrize(("method", "path"), INTERNAL_CALLS)
async def test_internal_call_takes_only_a_secret_for_this_service(
    services: Services, service: str, method: str, path: str
) -> None:
    client = services.clients[f"{service} internal"]

    async def ask(credential: str | None) -> int:
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        return (await client.call(method, path, headers=headers)).status

    assert await ask(secret_of("order", service)) not in (401, 403)
    audit = await ask(secret_of("audit", service))
    assert audit == 403 if method == "POST" else audit not in (401, 403)
    every_scope = " ".join(SCOPES)
    others = [secret_of("order", other) for other in ("product", "coupon", "balance") if other != service]
    for credential in (None, "", services.token("alice"), services.token("alice", every_scope), *others):
        assert await ask(credential) == 401
    public = services.clients[service]
    headers = {"Authorization": f"Bearer {secret_of('order', service)}"}
    assert (await public.call(method, path, headers=headers)).status == 404


@pytest.mark.parametrize("service", ["order", "product", "coupon", "balance"])
async def test_probes_and_metrics_are_on_the_internal_listener(services: Services, service: str) -> None:
    for path in ("/livez", "/readyz"):
        answer = await services.clients[f"{service} internal"].call("GET", path)
        assert answer.status == 200, answer
        assert (await services.clients[service].call("GET", path)).status == 404
    assert (await services.clients[service].call("GET", "/metrics")).status == 404
    assert (await services.clients[f"{service} internal"].call("GET", "/readyz")).body["auth_mode"] == "jwt"


async def test_page_of_the_calls_is_for_people_and_not_on_the_internal_listener(services: Services) -> None:
    for name, client in services.clients.items():
        async with aiohttp.ClientSession(client.url) as session, session.get("/docs") as response:
            assert response.status == (404 if name.endswith("internal") else 200), name


async def test_documents_need_no_token(services: Services) -> None:
    for name, client in services.clients.items():
        answer = await client.call("GET", "/openapi.json")
        assert answer.status == 200, (name, answer)
