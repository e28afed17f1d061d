"""The relay cleans with its own role, and works with an older schema."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from services.relay import metrics
from services.relay.outbox_cleaner import OutboxCleaner
from services.relay.settings import RelaySettings
from shared.postgres.connections import Pool
from tests.infrastructure.pipeline import Event, order_in
from tests.infrastructure.waiting import eventually
from tests.integration.relay_storage.outbox import SHARD, Outbox

SECONDS = 10.0


@asynccontextmanager
async def cleaning(url: str, replica: str = "one") -> AsyncIterator[None]:
    """Run a replica's cleaner with a very short retention."""
    settings = RelaySettings(
        database_url=url, kafka_bootstrap_servers="127.0.0.1:1", replica=replica, retention_hours=1e-6
    )
    async with Pool(settings, "cleaner") as pool:
        running = asyncio.create_task(OutboxCleaner(settings, pool).run())
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def test_a_replica_rotates_and_drops_by_itself(outbox: Outbox, relay_url: str) -> None:
    await outbox.write(Event(order_in(SHARD), 1))
    await outbox.rotate()
    await outbox.publish()
    # The first partition is published and past its retention; the current one was opened over five minutes ago.
    await outbox.root.execute("""
        UPDATE orders.outbox_partitions SET published_at = now() - interval '1 minute' WHERE partition = 0;
        UPDATE orders.outbox_partitions SET opened_at = now() - interval '6 minutes' WHERE partition = 1;
    """)
    await outbox.write(Event(order_in(SHARD), 1))
    async with cleaning(relay_url):

        async def cleaned() -> bool:
            return 0 not in await outbox.partitions() and await outbox.filled() == 2

        await eventually(cleaned, SECONDS, "a rotation and a drop")
    assert await outbox.statuses() == [(1, "PENDING")]


async def test_no_partition_is_dropped_while_the_clocks_disagree(
    outbox: Outbox, relay_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outbox.write(Event(order_in(SHARD), 1))
    await outbox.rotate()
    await outbox.publish()
    await outbox.root.execute(
        "UPDATE orders.outbox_partitions SET published_at = now() - interval '1 minute' WHERE partition = 0"
    )
    monkeypatch.setattr(time, "time", lambda: 0.0)  # equivalent to a database clock that is ahead
    with capture_logs() as logs:
        async with cleaning(relay_url):

            async def said() -> bool:
                return any("clock" in str(line.get("detail")) for line in logs)

            await eventually(said, SECONDS, "a line that names the clock")
    assert 0 in await outbox.partitions()


async def test_replica_without_leadership_does_not_clean(outbox: Outbox, relay_url: str) -> None:
    await outbox.root.execute(
        "INSERT INTO relay.duties VALUES ('clean the outbox', 'other', now() + interval '1 hour')"
    )
    metrics.PARTITIONS_KEPT.set(1)  # as measured while this replica was the leader
    metrics.LAST_CLEANING.set(0)
    async with cleaning(relay_url):
        asked = """
            SELECT 1 FROM pg_stat_activity
            WHERE application_name = 'cleaner' AND query LIKE '%relay.duties%' AND state = 'idle'
        """
        await eventually(lambda: outbox.root.fetch(asked), SECONDS, "the question for the leadership")

        async def gauge_is_zero() -> bool:
            return bool(metrics.PARTITIONS_KEPT._value.get() == 0)

        await eventually(gauge_is_zero, SECONDS, "the gauge")
        assert metrics.LAST_CLEANING._value.get() > time.time() - SECONDS, "else its alert counts from 1970"
    assert await outbox.root.fetchval("SELECT writers FROM orders.outbox_partitions WHERE partition = 1") is None


async def test_relay_beside_an_older_order_service_logs_that_cleaning_failed(outbox: Outbox, relay_url: str) -> None:
    await outbox.root.execute("DROP FUNCTION orders.rotate_outbox")
    with capture_logs() as logs:
        async with cleaning(relay_url):

            async def said() -> bool:
                return any(line["event"] == "outbox.cleaning_failed" and "older" in line["detail"] for line in logs)

            await eventually(said, SECONDS, "the log line")
