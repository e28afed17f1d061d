"""What a participant applies in one statement comes out as its rules decide it, also beside other sessions."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.balance.api import _charge
from services.balance.domain import Debit, Refund, UserId
from services.balance.domain import OrderId as BalanceOrder
from services.coupon import store as coupon_store
from services.coupon.domain import Coupon, CouponId, RedeemCoupon, ReleaseCoupon, ReserveCoupon
from services.coupon.domain import OrderId as CouponOrder
from services.coupon.domain import UserId as CouponUser
from services.product import store as product_store
from services.product.domain import HoldStock, OrderId, ProductId, RestoreStock
from shared.command_desk import CommandDesk
from shared.ids import uuid7
from shared.participant import Outcome
from shared.postgres import Session
from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("product", "coupon", "balance")
# Everything but times and the ids that each makes for itself.
ROWS = {
    "product": (
        "SELECT product_id, stock, put_in FROM products.products ORDER BY product_id",
        "SELECT order_id, product_id, quantity, unit_price, status FROM products.holds ORDER BY order_id, product_id",
        "SELECT order_id, closed FROM products.gates ORDER BY order_id",
        "SELECT order_id, type, attempt, applied, body FROM products.outcomes ORDER BY order_id, type, attempt",
    ),
    "coupon": (
        "SELECT coupon_id, status, order_id, discount_amount, held_at IS NULL FROM coupons.coupons ORDER BY coupon_id",
        "SELECT order_id, closed FROM coupons.gates ORDER BY order_id",
        "SELECT order_id, type, attempt, applied, body FROM coupons.outcomes ORDER BY order_id, type, attempt",
    ),
    "balance": (
        "SELECT user_id, balance, charged, entry_count FROM balances.accounts ORDER BY user_id",
        "SELECT user_id, number, kind, amount, counter_account, order_id, attempt, balance_after FROM balances.entries"
        " ORDER BY user_id, number",
        "SELECT order_id, closed FROM balances.gates ORDER BY order_id",
        "SELECT order_id, type, attempt, applied, body FROM balances.outcomes ORDER BY order_id, type, attempt",
    ),
}
_examples = count()


@dataclass(frozen=True, slots=True)
class Place:
    """A participant's database, and the ways to have commands done there."""

    name: str
    session: Session
    other_session: Session
    at_once: CommandDesk[Any]

    @property
    def batch(self) -> Any:
        """The service's module that executes batches."""
        return import_module(f"services.{self.name}.batch")

    async def decide(self, commands: Sequence[Any]) -> Sequence[Outcome]:
        """Run the commands as one batch, the general way."""
        async with self.session.transaction() as db:
            outcomes: Sequence[Outcome] = await self.batch.execute(db, commands)
        return outcomes

    async def rows(self) -> list[list[tuple[Any, ...]]]:
        """All that is stored, but for times."""
        async with self.session.transaction() as db:
            return [[tuple(row.values()) for row in await db.fetch(query)] for query in ROWS[self.name]]


async def open_place(stack: AsyncExitStack, name: str, database: Database) -> Place:
    url = migrate_service(name, database)
    settings_ = import_module(f"services.{name}.settings").Settings(database_url=url)
    session, other = [await stack.enter_async_context(Session(settings_, "at once")) for _ in range(2)]
    batch = import_module(f"services.{name}.batch")
    desk = await stack.enter_async_context(CommandDesk[Any](session, batch.execute, batch.apply_at_once))
    return Place(name, session, other, desk)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NAMES)
async def places(
    request: pytest.FixtureRequest, create_database: Callable[..., Database]
) -> AsyncIterator[tuple[Place, Place]]:
    """Each participant twice, with a database each."""
    async with AsyncExitStack() as stack:
        one, other = [await open_place(stack, request.param, create_database()) for _ in range(2)]
        yield one, other


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def product(create_database: Callable[..., Database]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield await open_place(stack, "product", create_database())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def balance(create_database: Callable[..., Database]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield await open_place(stack, "balance", create_database())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def coupon(create_database: Callable[..., Database]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield await open_place(stack, "coupon", create_database())


# What may arrive: a command is a choice of small numbers, which become ids of this example's own. --------------------

orders = st.integers(0, 9)
COMMANDS: dict[str, st.SearchStrategy[Any]] = {
    "product": st.tuples(
        st.sampled_from(["do", "do", "do", "undo"]),
        orders,
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=3, unique_by=lambda line: line[0]
        ),
    ),
    "coupon": st.tuples(
        st.sampled_from(["reserve", "redeem", "redeem", "redeem reserved", "undo"]),
        orders,
        st.integers(0, 5),
        st.integers(0, 1),
        st.sampled_from([0, 99, 1001, 2**63 - 1]),
    ),
    "balance": st.tuples(
        st.sampled_from(["do", "do", "do", "undo"]),
        orders,
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from([0, 1, 40, 100, 2**63 - 1]),
    ),
}


def command(name: str, example: str, ids: Sequence[UUID], chosen: Any) -> Any:
    what, number, *rest = chosen
    if name == "product":
        order = OrderId(ids[number])
        lines = tuple((ProductId(f"{example}-{product}"), quantity) for product, quantity in rest[0])
        return RestoreStock(order) if what == "undo" else HoldStock(order, 0, lines)
    if name == "balance":
        attempt, user, amount = rest
        if what == "undo":
            return Refund(BalanceOrder(ids[number]))
        return Debit(BalanceOrder(ids[number]), attempt, UserId(f"{example}-{user}"), amount)
    coupon_id, user, subtotal = rest
    use = (
        *(CouponOrder(ids[number]), CouponId(f"{example}-{coupon_id}")),
        *(CouponUser(f"{example}-{user}"), subtotal),
    )
    if what == "undo":
        return ReleaseCoupon(CouponOrder(ids[number]))
    return ReserveCoupon(*use) if what == "reserve" else RedeemCoupon(*use, 0, what == "redeem reserved")


async def stock_up(place: Place, example: str) -> None:
    """Products, coupons and accounts 0, 1, … of an example; the last one of each that is named is missing."""
    async with place.session.transaction() as db:
        if place.name == "product":
            for number, units in enumerate((3, 8, 1000)):
                await product_store.create_product(
                    db, f"{example}-{number}", 'Kettle \u00e9\u2028"', 100 + number, units
                )
        elif place.name == "balance":
            for number, amount in enumerate((150, 2**63 - 1)):
                await _charge(db, UserId(f"{example}-{number}"), amount, None)
        else:
            user = CouponUser(f"{example}-0")
            coupons = (
                Coupon(CouponId(f"{example}-0"), user, "fixed", 100, None, 0, None),
                Coupon(CouponId(f"{example}-1"), user, "percent", 33, None, 0, None),
                Coupon(CouponId(f"{example}-2"), user, "percent", 50, 20, 0, None),
                Coupon(CouponId(f"{example}-3"), user, "fixed", 5, None, 1000, None),
            )
            for coupon in coupons:
                await coupon_store.create_coupon(db, coupon)
            await db.execute(
                "INSERT INTO coupons.coupons (coupon_id, user_id, kind, value, expires_at)"
                " VALUES ($1, $2, 'fixed', 1, now() - interval '1 second')",
                f"{example}-4",
                user,
            )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_batch_comes_out_as_if_decided_with_what_is_applied_at_once_in_front(
    places: tuple[Place, Place], data: st.DataObject
) -> None:
    one, other = places
    example, ids = f"example-{next(_examples)}", [uuid7() for _ in range(10)]
    for place in places:
        await stock_up(place, example)
    batches = data.draw(st.lists(st.lists(COMMANDS[one.name], min_size=1, max_size=8), min_size=1, max_size=4))
    for chosen in batches:
        commands = [command(one.name, example, ids, choice) for choice in chosen]
        applied: set[UUID] = set()

        async def note(db: Any, candidates: Sequence[Any], applied: set[UUID] = applied) -> Any:
            done = await one.batch.apply_at_once(db, candidates)
            applied.update(done)
            return done

        async with CommandDesk[Any](one.session, one.batch.execute, note) as desk:
            told = await desk.run(commands)
        in_front = sorted(range(len(commands)), key=lambda place: commands[place].gate not in applied)
        decided = dict(zip(in_front, await other.decide([commands[place] for place in in_front]), strict=True))
        assert told == [decided[place] for place in range(len(commands))]
    assert await one.rows() == await other.rows()


# Beside other sessions ------------------------------------------------------------------------------------------------


async def beside(
    place: Place, others: Callable[[Any], Awaitable[Any]], commands: Sequence[Any]
) -> list[Outcome | None]:
    """Run commands while another session is in a transaction; it commits when they wait for it."""
    async with place.other_session.transaction() as db:

        async def somebody_waits() -> bool:
            waiting: bool = await db.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock')"
            )
            return waiting

        await others(db)
        running = asyncio.create_task(place.at_once.run(commands))
        await eventually(somebody_waits, 10, "a session that waits for the other's lock")
    return await running


def hold(product_id: str, quantity: int) -> HoldStock:
    return HoldStock(OrderId(uuid7()), 0, ((ProductId(product_id), quantity),))


@pytest.mark.parametrize(
    ("delta", "outcomes", "left"), [(5, [True, True], 9), (-5, [False, False], 5), (-4, [True, False], 0)], ids=str
)
async def test_stock_that_another_session_moves_meanwhile_is_counted_as_it_left_it(
    product: Place, delta: int, outcomes: list[bool], left: int
) -> None:
    example = f"moved-{delta}"
    async with product.session.transaction() as db:
        await product_store.create_product(db, example, "Kettle", 100, 10)
    holds = [hold(example, 6 if delta < 0 else 3) for _ in range(2)]
    told = await beside(product, lambda db: product_store.move_stock(db, example, delta), holds)
    assert [outcome.applied for outcome in told if outcome] == outcomes
    async with product.session.transaction() as db:
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = $1", example) == left


async def test_the_price_that_another_session_sets_meanwhile_is_the_one_that_is_told(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "repriced", "Kettle", 100, 10)
    (told,) = await beside(
        product, lambda db: product_store.change_product(db, "repriced", "Pot", 7), [hold("repriced", 1)]
    )
    assert told is not None
    assert told.body["lines"] == [{"product_id": "repriced", "name": "Pot", "quantity": 1, "unit_price": 7}]


async def test_an_order_that_another_session_undoes_meanwhile_is_fenced(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "fenced", "Kettle", 100, 10)
    late, other = hold("fenced", 1), hold("fenced", 2)

    async def undo(db: Any) -> None:
        await product.batch.execute(db, [RestoreStock(late.order_id)])

    told = await beside(product, undo, [late, other])
    assert [outcome.applied for outcome in told if outcome] == [False, True]
    assert told[0] is not None
    assert told[0].body["type"] == "/problems/fenced"
    async with product.session.transaction() as db:
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = 'fenced'") == 8


async def test_a_command_that_another_session_runs_meanwhile_is_done_once(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "twice", "Kettle", 100, 10)
    same = hold("twice", 4)
    first: list[Any] = []

    async def run(db: Any) -> None:
        first.append((await product.batch.apply_at_once(db, [same]))[same.order_id])

    told = await beside(product, run, [same])
    assert [outcome.applied for outcome in told if outcome] == [True]
    async with product.session.transaction() as db:
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = 'twice'") == 6


@pytest.mark.parametrize(("amount", "balances"), [(50, [90, 30]), (0, [40]), (-60, [])], ids=str)
async def test_a_balance_that_another_session_changes_meanwhile_is_counted_as_it_left_it(
    balance: Place, amount: int, balances: list[int]
) -> None:
    user = UserId(f"changed-{amount}")
    async with balance.session.transaction() as db:
        await _charge(db, user, 100, None)
    debits = [Debit(BalanceOrder(uuid7()), 0, user, 60) for _ in range(2)]

    async def change(db: Any) -> None:
        if amount > 0:
            await _charge(db, user, amount, None)
        elif amount < 0:
            await balance.batch.apply_at_once(db, [Debit(BalanceOrder(uuid7()), 0, user, -amount)])
        else:
            await db.execute("SELECT FROM balances.accounts WHERE user_id = $1 FOR UPDATE", user)

    told = await beside(balance, change, debits)
    assert [outcome.body["balance"] for outcome in told if outcome and outcome.applied] == balances
    async with balance.session.transaction() as db:
        numbers = await db.fetch(
            "SELECT number, balance_after FROM balances.entries WHERE user_id = $1 ORDER BY number", user
        )
        account = await db.fetchrow("SELECT balance, entry_count FROM balances.accounts WHERE user_id = $1", user)
    assert [row["number"] for row in numbers] == list(range(1, len(numbers) + 1))
    assert account is not None
    assert tuple(account) == (numbers[-1]["balance_after"], len(numbers))


async def test_a_coupon_that_another_session_uses_meanwhile_is_used_already(coupon: Place) -> None:
    user = CouponUser("ann")
    async with coupon.session.transaction() as db:
        for number in range(2):
            await coupon_store.create_coupon(db, Coupon(CouponId(f"c{number}"), user, "fixed", 1, None, 0, None))
    uses = [RedeemCoupon(CouponOrder(uuid7()), CouponId(f"c{number}"), user, 100) for number in range(2)]

    async def use(db: Any) -> None:
        await coupon.batch.apply_at_once(db, [RedeemCoupon(CouponOrder(uuid7()), CouponId("c0"), user, 100)])

    told = await beside(coupon, use, uses)
    assert [outcome.applied for outcome in told if outcome] == [False, True]


# What is not applied at once ------------------------------------------------------------------------------------------


async def test_an_order_that_looks_old_goes_the_general_way(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "old", "Kettle", 100, 10)
    old = HoldStock(OrderId(UUID("00000000-0000-7000-8000-000000000001")), 0, ((ProductId("old"), 1),))
    async with product.session.statement() as db:
        assert await product.batch.apply_at_once(db, [old]) == {}
    (told,) = await product.at_once.run([old])
    assert told is not None
    assert told.applied


async def test_an_order_that_is_past_is_fenced_however_young_it_is(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "past", "Kettle", 100, 10)
        before = await db.fetchval("SELECT pruned_before FROM products.horizon")
        await db.execute("UPDATE products.horizon SET pruned_before = $1", UUID(int=2**128 - 1))
    try:
        (told,) = await product.at_once.run([hold("past", 1)])
    finally:
        async with product.session.transaction() as db:
            await db.execute("UPDATE products.horizon SET pruned_before = $1", before)
    assert told is not None
    assert told.body["type"] == "/problems/fenced"


async def test_what_is_not_applied_leaves_its_gate_open_and_no_other_trace(product: Place) -> None:
    async with product.session.transaction() as db:
        await product_store.create_product(db, "few", "Kettle", 100, 1)
        await product_store.create_product(db, "plenty", "Kettle", 100, 9)
    short = HoldStock(OrderId(uuid7()), 0, ((ProductId("plenty"), 1), (ProductId("few"), 2)))
    fine = hold("plenty", 8)
    async with product.session.statement() as db:
        assert set(await product.batch.apply_at_once(db, [short, fine])) == {fine.order_id}
    async with product.session.transaction() as db:
        told = await product_store.read_order_outcomes(db, short.order_id)
        assert [(row["closed"], row["type"]) for row in told] == [(False, None)]
        assert await product_store.read_holds(db, [short.order_id]) == {}
        assert await db.fetchval("SELECT stock FROM products.products WHERE product_id = 'plenty'") == 1


@pytest.mark.parametrize(
    ("name", "query", "index"),
    [
        ("product", "hold_at_once", "products_pkey"),
        ("coupon", "use_at_once", "coupons_by_user"),
        ("balance", "debit_at_once", "accounts_pkey"),
    ],
)
async def test_a_plan_made_while_nothing_is_there_finds_by_key_what_comes_to_be_there(
    create_database: Callable[..., Database], name: str, query: str, index: str
) -> None:
    async with AsyncExitStack() as stack:
        place = await open_place(stack, name, create_database())
        sql = import_module(f"services.{name}.store").SQL[query]
        async with place.session.statement() as db:
            await db.execute(f"PREPARE at_once AS {sql}")
            arguments = ", ".join(["'{}'"] * len(set(re.findall(r"\$\d+", sql))))
            plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN EXECUTE at_once ({arguments})"))
    assert re.search(rf"Index Scan using {index} on \w+ \w+ .*\n +Index Cond: \(.*_id = t_", plan), plan
    assert "Seq Scan" not in plan
    assert "Bitmap" not in plan
