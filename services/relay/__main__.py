"""`python -m services.relay`: puts the relay together and runs it."""

import asyncio
import logging
from pathlib import Path

from services.relay import api, backlog
from services.relay.bootstrap import bootstrap
from services.relay.broker import Broker
from services.relay.drain import Drain
from services.relay.leases import Keeper
from services.relay.settings import RelaySettings
from services.relay.wakeup import Wakeup
from shared.http.server import HttpServer
from shared.postgres import Pool
from shared.process import Service, background, main

SHARDS = 4  # as many as orders.outbox computes and relay.shards has rows


async def serve(settings: RelaySettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set; then finish the batches under way and release the shards."""
    broker = Broker(settings, SHARDS)
    async with Pool(settings, "relay") as pool:
        keeper = Keeper(settings, pool, lambda shard: Drain(settings, broker, shard))
        wakeup = Wakeup(settings, lambda: keeper.drains)
        checks = api.checks(pool, broker, lambda: keeper.drains)
        server = HttpServer("relay", api.DESCRIPTION, settings, api.ROUTES, checks, api.details(lambda: keeper.drains))
        try:
            async with (
                background("backlog", lambda: backlog.measure(pool)),
                background("wakeup", wakeup.run),
                background("leases", lambda: keeper.run(stop)),
            ):
                await server.run(stop)
        finally:
            await broker.close()


async def run_bootstrap(settings: RelaySettings) -> int:
    """Run the `bootstrap` command."""
    return await bootstrap(settings)


if __name__ == "__main__":
    # The client library logs every try of every connection; what matters of it is in the relay's own lines.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    main(
        Service(
            name="relay",
            settings=RelaySettings,
            schema="relay",
            migrations=Path(__file__).with_name("migrations"),
            serve=serve,
            commands={"bootstrap": run_bootstrap},
        )
    )
