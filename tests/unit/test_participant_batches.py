"""Each participant opens the gates of a batch, then locks them, and only then reads everything else."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from services.balance import batch as balance
from services.balance.domain import Debit, Refund
from services.balance.store import SQL as BALANCE
from services.coupon import batch as coupon
from services.coupon.domain import CouponId, RedeemCoupon, ReleaseCoupon
from services.coupon.store import SQL as COUPON
from services.product import batch as product
from services.product.domain import HoldStock, ProductId, RestoreStock
from services.product.store import SQL as PRODUCT
from shared.ids import uuid7

ORDER: Any = uuid7()  # each participant has its own type for it
UNDONE: Any = uuid7()
USER: Any = "ann"


class Database:
    """Stands in for a connection: it records the names of queries, and has only open gates."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._names = {query: name for name, query in queries.items()}
        self.queries: list[str] = []

    async def fetch(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        self.queries.append(self._names[query])
        gates = arguments[0] if self._names[query] == "lock_gates" else ()
        return [{"gate": gate, "closed": False, "past": False, "now": datetime.now(UTC)} for gate in gates]

    execute = fetch


@pytest.mark.parametrize(
    ("execute", "queries", "commands", "reads"),
    [
        (
            product.execute,
            PRODUCT,
            [HoldStock(ORDER, 0, ((ProductId("p"), 1),)), RestoreStock(UNDONE)],
            {"read_holds", "lock_stock", "read_outcomes"},
        ),
        (
            coupon.execute,
            COUPON,
            [RedeemCoupon(ORDER, CouponId("c"), USER, 100, 0, reserved=False), ReleaseCoupon(UNDONE)],
            {"lock_coupons", "read_outcomes"},
        ),
        (
            balance.execute,
            BALANCE,
            [Debit(ORDER, 0, USER, 5), Refund(UNDONE)],
            {"read_paid", "lock_accounts", "read_outcomes"},
        ),
    ],
    ids=["product", "coupon", "balance"],
)
async def test_gates_are_locked_before_anything_else_is_read(
    execute: Callable[[Any, Any], Awaitable[Sequence[Any]]],
    queries: Mapping[str, str],
    commands: Sequence[Any],
    reads: set[str],
) -> None:
    db = Database(queries)
    assert len(await execute(db, commands)) == len(commands)
    assert db.queries[:2] == ["open_gates", "lock_gates"]
    assert set(db.queries[2 : 2 + len(reads)]) == reads
