"""All services and the reference consumer in the test's event loop, on one migrated database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

from deploy.consumer import __main__ as consumer
from deploy.consumer import store
from deploy.consumer.settings import ConsumerSettings
from services.relay import process as relay
from services.relay.settings import RelaySettings
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS, Client, migrate_service, running, serving
from tests.infrastructure.waiting import free_port


def migrate_everything(database: Database) -> dict[str, str]:
    """Apply all migrations; return each service's address of the database, with its runtime role."""
    urls = {name: migrate_service(name, database) for name in SCHEMAS}
    migrator = database.as_role("platform_migrator")
    asyncio.run(store.migrate(ConsumerSettings(database_url=migrator, kafka_bootstrap_servers="127.0.0.1:1")))
    return urls | {"consumer": database.as_role("platform_consumer")}


@asynccontextmanager
async def everything(database: Database, kafka: str, **settings: Any) -> AsyncIterator[dict[str, Client]]:
    """Serve every service and a consumer with these settings; yield their clients by name."""
    broker: dict[str, Any] = {"kafka_bootstrap_servers": kafka, "topic": f"orders.test-{uuid4().hex}"}
    urls = await asyncio.to_thread(migrate_everything, database)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        clients = {
            name: await enter(serving(name, urls[name], **settings)) for name in ("product", "coupon", "balance")
        }
        others = {f"{name}_url": client.url for name, client in clients.items()}
        clients["order"] = await enter(serving("order", urls["order"], **settings, **others))
        relay_settings = RelaySettings(port=free_port(), database_url=urls["relay"], **settings, **broker)
        clients["relay"] = await enter(running(relay.serve, relay_settings))
        chosen = ConsumerSettings(
            port=free_port(), database_url=urls["consumer"], relay_url=clients["relay"].url, **settings, **broker
        )
        clients["consumer"] = await enter(running(consumer.serve, chosen))
        yield clients
