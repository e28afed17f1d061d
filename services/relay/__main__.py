"""`python -m services.relay`: puts the relay together and runs it."""

import asyncio
import logging
from pathlib import Path

from aiokafka.errors import KafkaError

from services.relay import api, history
from services.relay.admin.api import AdminApi
from services.relay.admin.replay_api import ReplayApi
from services.relay.bootstrap import bootstrap
from services.relay.relay import Relay
from services.relay.settings import RelaySettings
from shared.background import background
from shared.http.server import HttpServer
from shared.postgres import Pool, Session
from shared.process import Service, main


async def serve(settings: RelaySettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set; then finish the batches under way and release the shards."""
    released = asyncio.Event()
    async with Pool(settings, "relay") as pool, Session(settings, "relay readiness", checked=True) as readiness:
        relay = Relay(settings, pool)
        checks = api.checks(readiness, relay.broker, relay.drains)
        calls = [*api.routes(settings.topic), *history.routes(pool)]
        server = HttpServer("relay", api.DESCRIPTION, settings, calls, checks, api.details(relay.drains))

        async def publish() -> None:
            try:
                await relay.run(stop)
            finally:
                released.set()

        async with background("relay", publish):
            await asyncio.gather(server.run(stop), _run_admin(settings, pool, stop))
            await released.wait()


async def _run_admin(settings: RelaySettings, pool: Pool, stop: asyncio.Event) -> None:
    """Serve the operators on their own listener, if there is to be one."""
    if settings.admin_port is None:
        return
    own = settings.model_copy(update={"port": settings.admin_port})
    description = "For operators only: parked events and what to do with them, and replays."
    calls = [*AdminApi(settings, pool).routes(), *ReplayApi(settings, pool).routes()]
    await HttpServer("relay admin", description, own, calls, {}).run(stop)


def quiet_the_client() -> None:
    """Keep the Kafka client's own noise out of the log; what matters of it is in the relay's lines.

    It logs every try of every connection, and a dropped producer leaves futures behind whose errors nobody will ask
    for, which asyncio reports one by one.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], KafkaError))
    )


if __name__ == "__main__":
    quiet_the_client()
    main(
        Service(
            name="relay",
            settings=RelaySettings,
            schema="relay",
            migrations=Path(__file__).with_name("migrations"),
            serve=serve,
            commands={"bootstrap": bootstrap},
        )
    )
