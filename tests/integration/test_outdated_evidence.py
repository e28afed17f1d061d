"""A former primary that was cut off and replaced still answers reads. Nothing is concluded from them against others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor
from services.order.settings import Settings
from services.relay.completeness import digests
from services.relay.completeness.digests import DigestsQuery, EventsQuery
from services.relay.settings import RelaySettings
from shared.postgres import connecting
from shared.postgres.connections import Pool
from shared.refusals import Unavailable
from tests.infrastructure.checkout import Checkout, serving_checkout
from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import serving
from tests.infrastructure.shopping import an_order_of_a_new_user
from tests.infrastructure.two_primaries import TwoPrimaries
from tests.infrastructure.waiting import eventually

GRACE_SECONDS = 0.2
MINUTE = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
SECONDS = 10
DIGESTS = DigestsQuery.model_validate({"from": MINUTE.isoformat(), "to": MINUTE.replace(minute=31).isoformat()})
OF_ORDER = EventsQuery.model_validate({"order_id": str(UUID(int=1))})
OF_BUCKET = EventsQuery.model_validate({"shard": "0", "bucket": MINUTE.isoformat()})
Read = Callable[[Pool], Awaitable[dict[str, Any]]]
READS: tuple[Read, ...] = (
    lambda pool: digests.digests(pool, DIGESTS),
    lambda pool: digests._of_order(pool, OF_ORDER, UUID(int=1)),
    lambda pool: digests._of_bucket(pool, OF_BUCKET),
)


@pytest.fixture(scope="module")
def two(reaper: Reaper) -> Iterator[TwoPrimaries]:
    """Two primaries: nobody follows the former one."""
    two = TwoPrimaries(reaper)
    two.promote()
    yield two
    two.stop()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a commit that nobody acknowledges fail after a second."""
    monkeypatch.setattr(connecting, "COMMAND_TIMEOUT_SECONDS", 1.0)


@pytest.fixture
async def checkout(two: TwoPrimaries) -> AsyncIterator[Checkout]:
    """Serve the checkout on the new primary."""
    async with serving_checkout(two.new) as checkout:
        yield checkout


async def audit(database: Database, checkout: Checkout) -> Any:
    """Audit the orders of this database with the participants of the new primary."""
    settings = Settings(database_url=database.as_role("order_service"))
    urls = {name: way.url for name, way in checkout.ways.items()}
    async with Pool(settings, "order audit") as pool, BookReader(urls) as books:
        return await Auditor(pool, books, grace_seconds=GRACE_SECONDS).run()


async def test_audit_on_a_former_primary_reports_no_finding(two: TwoPrimaries, checkout: Checkout) -> None:
    """The participants hold an order that only the new primary has: an orphan, for the former one."""
    await checkout.shop.order.post("/v1/orders", await an_order_of_a_new_user(checkout.shop) | {"payment": "now"})

    async def all_audited() -> bool:  # the order is audited after the grace period
        report = await audit(two.new, checkout)
        assert report.clean, report.view()
        return bool(report.orders)

    await eventually(all_audited, SECONDS, "an audited order")
    with pytest.raises(Unavailable):
        await audit(two.old, checkout)


async def test_participant_on_a_former_primary_does_not_say_what_it_holds(two: TwoPrimaries) -> None:
    path = f"/internal/v1/holds?order_id={UUID(int=1)}"
    async with serving("product", two.new.as_role("product_service")) as service:
        assert await service.get(path) == {"items": []}
    async with serving("product", two.old.as_role("product_service")) as service:
        assert (await service.call("GET", path)).status == 503


async def test_relay_on_a_former_primary_does_not_say_what_was_published(two: TwoPrimaries) -> None:
    """A consumer would take what only the new primary has for forged, and withdraw it."""
    async with relay_pool(two.new) as pool:
        for read in READS:
            assert "items" in await read(pool)
    async with relay_pool(two.old) as pool:
        answers = await asyncio.gather(*(read(pool) for read in READS), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * len(READS)


def relay_pool(database: Database) -> Pool:
    url = database.as_role("relay_service")
    return Pool(RelaySettings(database_url=url, kafka_bootstrap_servers="127.0.0.1:1"), "relay")
