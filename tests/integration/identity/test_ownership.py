"""What belongs to whom in jwt mode: orders, coupons and accounts of others, acts of operators, and quotas."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
import pytest_asyncio

from tests.infrastructure.services import Answer
from tests.infrastructure.waiting import eventually
from tests.integration.identity.conftest import Services

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def place(services: Services, subject: str, scope: str = "", **body: object) -> dict[str, object]:
    answer = await services.call(
        "order", "POST", "/v1/orders", subject, scope, {"lines": [{"product_id": "tea", "quantity": 1}], **body}
    )
    assert answer.status == 201, answer
    found: dict[str, object] = answer.body
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _catalog(services: Services) -> None:
    product = {"product_id": "tea", "name": "Tea", "price": 5, "stock": 1000}
    assert (await services.call("product", "POST", "/v1/products", "seller", "catalog:write", product)).status == 201
    for user in ("alice", "bob"):
        charge = {"amount": 1000}
        path = f"/v1/accounts/{user}/charges"
        assert (await services.call("balance", "POST", path, "bank", "accounts:charge", charge)).status == 201


async def test_order_belongs_to_the_caller(services: Services) -> None:
    assert (await place(services, "alice"))["user_id"] == "alice"
    assert (await place(services, "alice", user_id="alice"))["user_id"] == "alice"


async def test_order_for_another_user_needs_the_scope(services: Services) -> None:
    body = {"user_id": "bob", "lines": [{"product_id": "tea", "quantity": 1}]}
    refused = await services.call("order", "POST", "/v1/orders", "alice", "orders:read", body)
    assert (refused.status, refused.body["required_scope"]) == (403, "orders:write")
    assert (await place(services, "alice", "orders:write", user_id="bob"))["user_id"] == "bob"


ACTS: Sequence[tuple[str, str, str]] = [
    ("GET", "", "orders:read"),
    ("GET", "/timeline", "orders:read"),
    ("POST", "/payment", "orders:write"),
    ("POST", "/cancel", "orders:write"),
]


@pytest.mark.parametrize(("method", "suffix", "scope"), ACTS)
@pytest.mark.parametrize("key", [None, "key"])
async def test_another_user_s_order_is_a_missing_one(
    services: Services, method: str, suffix: str, scope: str, key: str | None
) -> None:
    order = await place(services, "alice", payment="later")
    path, missing = f"/v1/orders/{order['order_id']}{suffix}", f"/v1/orders/{uuid.uuid4()}{suffix}"
    headers = {"Authorization": f"Bearer {services.token('bob')}"}
    if key is not None and method == "POST":
        headers["Idempotency-Key"] = uuid.uuid4().hex
    client = services.clients["order"]
    foreign, absent = (
        await client.call(method, path, headers=headers),
        await client.call(method, missing, headers=headers),
    )
    assert foreign.status == absent.status == 404
    assert {**foreign.body, "detail": "", "instance": ""} == {**absent.body, "detail": "", "instance": ""}
    assert (await services.call("order", "GET", f"/v1/orders/{order['order_id']}", "alice")).body == order
    assert (await services.call("order", method, path, "bob", scope)).status == 200
    assert (await services.call("order", "POST", f"/v1/orders/{order['order_id']}/cancel", "alice")).status in (
        200,
        409,
    )


async def test_list_shows_the_caller_s_orders(services: Services) -> None:
    await place(services, "alice")
    await place(services, "bob")
    answer = await services.call("order", "GET", "/v1/orders", "alice")
    assert {order["user_id"] for order in answer.body["items"]} == {"alice"}
    foreign = await services.call("order", "GET", "/v1/orders?user_id=bob", "alice")
    assert (foreign.status, foreign.body["required_scope"]) == (403, "orders:read")
    answer = await services.call("order", "GET", "/v1/orders?user_id=bob", "alice", "orders:read")
    assert {order["user_id"] for order in answer.body["items"]} == {"bob"}


async def test_coupons_of_others_are_missing_ones(services: Services) -> None:
    coupon = {"coupon_id": "spring", "user_id": "alice", "kind": "fixed", "value": 1}
    assert (await services.call("coupon", "POST", "/v1/coupons", "shop", "coupons:write", coupon)).status == 201
    assert (await services.call("coupon", "GET", "/v1/coupons/spring", "alice")).status == 200
    assert (await services.call("coupon", "GET", "/v1/coupons/spring", "bob")).status == 404
    assert (await services.call("coupon", "GET", "/v1/coupons/spring", "bob", "orders:read")).status == 200
    assert (await services.call("coupon", "GET", "/v1/coupons", "bob")).body["items"] == []
    assert (await services.call("coupon", "GET", "/v1/coupons?user_id=alice", "bob")).status == 403


async def test_coupon_is_read_with_its_user_and_not_with_another(services: Services) -> None:
    coupon = {"coupon_id": "autumn", "user_id": "alice", "kind": "fixed", "value": 1}
    assert (await services.call("coupon", "POST", "/v1/coupons", "shop", "coupons:write", coupon)).status == 201
    for user, caller, scope, status in (
        *(("alice", "alice", "", 200), ("alice", "bob", "orders:read", 200)),
        *(("alice", "bob", "", 403), ("bob", "bob", "orders:read", 404), ("", "alice", "", 422)),
    ):
        answer = await services.call("coupon", "GET", f"/v1/coupons/autumn?user_id={user}", caller, scope)
        assert answer.status == status, (user, caller, answer)
    assert (await services.call("coupon", "GET", "/v1/coupons/autumn?other=1", "alice")).status == 200


async def test_account_of_another_user_is_a_missing_one(services: Services) -> None:
    for suffix in ("", "/entries"):
        assert (await services.call("balance", "GET", f"/v1/accounts/alice{suffix}", "bob")).status == 404
        assert (
            await services.call("balance", "GET", f"/v1/accounts/alice{suffix}", "bob", "orders:read")
        ).status == 200
        assert (await services.call("balance", "GET", f"/v1/accounts/alice{suffix}", "alice")).status == 200


async def test_me_is_the_caller_in_account_paths(services: Services) -> None:
    assert (await services.call("balance", "GET", "/v1/accounts/me", "alice")).body["user_id"] == "alice"
    charge = await services.call("balance", "POST", "/v1/accounts/me/charges", "bob", "accounts:charge", {"amount": 1})
    assert charge.body["user_id"] == "bob"


@pytest.mark.parametrize(
    ("service", "path"), [("order admin", "/admin/v1/sagas/retry"), ("relay admin", "/admin/v1/parked/retry")]
)
async def test_operator_is_the_token_s_subject(services: Services, service: str, path: str) -> None:
    named = {"actor": "somebody else", "reason": "x"}
    refused = await services.call(service, "POST", path, "olga", "ops", named)
    assert (refused.status, refused.problem) == (422, "validation-failed")
    assert refused.body["errors"][0]["pointer"] == "/actor"
    assert (await services.call(service, "POST", path, "olga", "ops", {"reason": "x"})).status == 200


QUOTA = 120  # what a caller may begin at once


async def test_caller_beyond_the_quota_gets_429_and_others_are_served(services: Services) -> None:
    order = await place(services, "mallory", payment="later")
    unknown = {"lines": [{"product_id": "unknown", "quantity": 1}]}

    async def begin(key: str, path: str = "", body: Any = unknown, scope: str = "") -> Answer:
        headers = {"Authorization": f"Bearer {services.token('mallory', scope)}", "Idempotency-Key": key}
        return await services.clients["order"].call("POST", f"/v1/orders{path}", body, headers=headers)

    async def until_refused(*arguments: Any) -> str:
        """Repeat a call with new keys until it is refused, and return the key. Meanwhile the budget grows by two a
        second."""
        for key in (uuid.uuid4().hex for _ in range(QUOTA)):
            answer = await begin(key, *arguments)
            if answer.status == 429:
                assert (answer.problem, answer.headers["Retry-After"]) == ("too-many-requests", "1")
                return key
        raise AssertionError(f"{arguments} was never refused")

    statuses: list[int] = []
    while 429 not in statuses and len(statuses) < 4 * QUOTA:
        answers = await asyncio.gather(*(begin(uuid.uuid4().hex) for _ in range(10)))
        statuses += [answer.status for answer in answers]
    assert set(statuses) == {404, 429}
    assert statuses.count(404) >= QUOTA - 1  # the order above counts too
    own = f"/{order['order_id']}"
    await until_refused("", {**unknown, "user_id": "bob"}, "orders:write")
    await until_refused(f"{own}/payment", {})
    await until_refused(f"{own}/cancel", {})
    assert (await services.call("order", "GET", f"/v1/orders{own}", "mallory")).status == 200
    await place(services, "alice")
    key = await until_refused()

    async def is_served() -> bool:
        return (await begin(key)).status == 404

    await eventually(is_served, 20, "an answer to the refused key")
