"""The relay's listening connection: it leads to the primary, and its loss is noticed at once."""

import asyncio
from typing import Any

import asyncpg
import pytest

from services.relay.publishing.notifier import Notifier
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.settings import RelaySettings
from shared.postgres.connecting import ReadOnlyServer
from shared.refusals import Unavailable
from tests.infrastructure.databases import Database
from tests.infrastructure.waiting import eventually

LOOKS_MAX = 20
PROMPT_SECONDS = 5  # far below the poll interval of 60 s
DEFINITION = "SELECT pg_get_functiondef('relay.shards_with_pending(smallint[])'::regprocedure)"
# The next statement after it would be refused as by a standby, and the server reports this with the answer.
TURN_READ_ONLY = """
    CREATE OR REPLACE FUNCTION relay.shards_with_pending(p_shards smallint[]) RETURNS SETOF smallint LANGUAGE sql AS $$
        SELECT 0::smallint WHERE set_config('default_transaction_read_only', 'on', false) = 'off'
    $$
"""

# Only once its first query has been answered: a query would notice the loss as well.
END_IDLE = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'idle' AND query LIKE '%shards_with_pending%'
        AND pid <> pg_backend_pid()
"""


async def test_notifier_leaves_a_server_that_turned_read_only(migrated: Database) -> None:
    url = migrated.as_role("relay_service")
    settings = RelaySettings(database_url=url, kafka_bootstrap_servers="127.0.0.1:1", poll_interval_seconds=0.01)
    looks: list[None] = []

    def publishers() -> list[ShardPublisher]:
        looks.append(None)
        assert len(looks) < LOOKS_MAX, "it still listens"
        return []

    db = await asyncpg.connect(migrated.url)
    definition = await db.fetchval(DEFINITION)
    await db.execute(TURN_READ_ONLY)
    try:
        with pytest.raises(ReadOnlyServer):
            await Notifier(settings, publishers)._listen()
    finally:
        await db.execute(definition)
        await db.close()


class Publishers:
    """Stands in for the publishers of a replica with one idle shard."""

    shard, idle, grouped = 0, True, False

    def __init__(self) -> None:
        self.looked_at = asyncio.Event()
        self.woken = asyncio.Event()

    def __call__(self) -> Any:
        self.looked_at.set()
        return [self]

    def wake(self) -> None:
        self.woken.set()


def notifier(url: str, publishers: Publishers) -> Notifier:
    settings = RelaySettings(database_url=url, kafka_bootstrap_servers="127.0.0.1:1", poll_interval_seconds=60)
    return Notifier(settings, publishers)


async def test_shards_look_for_earlier_events_immediately_when_the_relay_listens(migrated: Database) -> None:
    publishers = Publishers()
    listening = asyncio.create_task(notifier(migrated.url, publishers)._listen())
    await asyncio.wait_for(publishers.looked_at.wait(), PROMPT_SECONDS)
    listening.cancel()
    await asyncio.wait([listening])


async def test_loss_of_the_listening_connection_is_noticed_before_the_poll_interval(migrated: Database) -> None:
    publishers = Publishers()
    listening = asyncio.create_task(notifier(migrated.url, publishers)._listen())
    await publishers.looked_at.wait()
    db = await asyncpg.connect(migrated.url)

    async def ended() -> Any:
        return await db.fetchval(END_IDLE)

    await eventually(ended, PROMPT_SECONDS, "the end of the idle connection")
    await db.close()
    done, _ = await asyncio.wait([listening], timeout=PROMPT_SECONDS)
    listening.cancel()
    assert done
    assert isinstance(listening.exception(), Unavailable)


async def test_every_shard_polls_while_the_relay_does_not_listen() -> None:
    publishers = Publishers()
    running = asyncio.create_task(notifier("postgresql://127.0.0.1:1/none", publishers).run())
    await asyncio.wait_for(publishers.woken.wait(), PROMPT_SECONDS)
    running.cancel()
    await asyncio.wait([running])
