"""A rejected order takes little more than twice its request, and loses nothing of what it answers."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence

import orjson
import pytest

from services.order import store
from services.order.engine.operations import KeyClaim, fingerprint
from services.order.process import OrderProcess
from services.order.store import Answer
from services.order.timeline import timeline
from tests.integration.order.order_service import OrderService, order_id_of, problem_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

Lines = Sequence[tuple[str, int]]
MakeLines = Callable[[OrderService], Awaitable[Lines]]

AT_ONCE = 20
SIZE = """SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
          WHERE relnamespace = 'orders'::regnamespace AND relkind = 'r'"""


async def size(service: OrderService) -> int:
    """Return the bytes of all tables of the order service, with their indexes and TOAST, without dead rows.

    The space of dead rows is used again by the next orders.
    """
    for table in ("orders", "sagas", "idempotency_keys"):
        await service.db.execute(f"VACUUM FULL orders.{table}")
    found: int = await service.db.fetchval(SIZE)
    return found


async def one_short_unknown(_service: OrderService) -> Lines:
    return [(secrets.token_hex(4), 1)]


async def three_long_unknown(_service: OrderService) -> Lines:
    return [(long_id(), 1) for _ in range(3)]


async def fifty_long_unknown(_service: OrderService) -> Lines:
    return [(long_id(), 1) for _ in range(50)]


async def fifty_too_dear(service: OrderService) -> Lines:
    """Return lines of products that exist; they are held and priced before the user can't pay them."""
    lines = [(secrets.token_hex(16), 1) for _ in range(50)]
    for product, _ in lines:
        await service.product.post(
            "/v1/products", {"product_id": product, "name": "Thing", "price": 9, "stock": 10_000}
        )
    return lines


def long_id() -> str:
    """Return an id of 128 characters, which take 512 bytes and can't be compressed."""
    return "".join(chr(0x20000 + secrets.randbelow(0xA000)) for _ in range(128))


async def refused(replica: OrderProcess, lines: Lines) -> tuple[bytes, KeyClaim, Answer]:
    """Place an order that is refused; return its request, key and answer."""
    user, key = f"user-{secrets.token_hex(4)}", secrets.token_hex(16)
    body = {"user_id": user, "lines": [{"product_id": product, "quantity": n} for product, n in lines]}
    claim = KeyClaim(user, "place", key, fingerprint(body))
    answer = await replica.checkout.place(user, lines, None, pay_now=True, key=claim)
    assert isinstance(answer, Answer)
    assert answer.status >= 400
    return orjson.dumps(body) + key.encode(), claim, answer


@pytest.mark.parametrize(
    ("make", "count"),
    # Enough orders that the last, half empty page of each table and index does not matter.
    [(one_short_unknown, 200), (three_long_unknown, 100), (fifty_long_unknown, 40), (fifty_too_dear, 60)],
)
async def test_rejected_order_takes_twice_its_request_and_2_kb_at_most(
    service: OrderService, make: MakeLines, count: int
) -> None:
    lines = [await make(service) for _ in range(count if make is not fifty_too_dear else 1)]
    async with service.replica() as replica:
        before = await size(service)
        requests = 0
        for first in range(0, count, AT_ONCE):
            placed = await asyncio.gather(
                *(refused(replica, lines[n % len(lines)]) for n in range(first, first + AT_ONCE))
            )
            requests += sum(len(request) for request, _, _ in placed)
        taken, request = (await size(service) - before) / count, requests / count
    assert taken <= 2 * request + 2048, f"{taken:.0f} bytes for a request of {request:.0f}"


async def test_repeated_key_of_a_refusal_gets_the_same_bytes_from_the_stored_problem(service: OrderService) -> None:
    known = (await service.customer()).product
    lines = [(long_id(), 2), (known, 1), (long_id(), 1)]
    async with service.replica() as replica:
        _, claim, answer = await refused(replica, lines)
    problem = json.loads(answer.body)
    assert problem_of(answer) == "product-not-found"
    assert problem["product_ids"] == [lines[0][0], lines[2][0]]
    async with service.replica() as other:
        repeated = await other.checkout.place(claim.user_id, lines, None, pay_now=True, key=claim)
        assert repeated == answer
        async with other.pool.connection() as db:
            rows = await store.list_sagas_of_order(db, order_id_of(answer))
    items = timeline([dict(row) for row in rows])
    assert [(item["step"], item["outcome"]) for item in items] == [
        ("place_now", "started"),
        ("hold_stock", "refused"),
        ("place_now", "compensated"),
    ]
    assert items[1]["detail"] == items[2]["detail"] == problem["detail"]


async def test_every_key_of_a_refused_payment_gets_the_same_answer(service: OrderService) -> None:
    customer = await service.customer(balance=0)
    async with service.replica() as replica:
        order_id = await customer.unpaid(replica)
        keys = [customer.key("pay", f"key {n}", order_id) for n in range(3)]
        answers = await asyncio.gather(*(replica.checkout.pay(order_id, key) for key in keys))
        assert {problem_of(answer) for answer in answers} == {"insufficient-balance"}
        assert await asyncio.gather(*(replica.checkout.pay(order_id, key) for key in keys)) == answers
        bodies = "SELECT count(body) FROM orders.idempotency_keys WHERE user_id = $1"
        assert await service.db.fetchval(bodies, customer.user) == 0
        assert await service.status(order_id) == "PENDING_PAYMENT"
