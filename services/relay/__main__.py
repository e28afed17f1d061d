"""`python -m services.relay`: puts the relay together and runs it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError

from services.relay import api, history
from services.relay.admin.api import AdminApi
from services.relay.admin.replay_api import ReplayApi
from services.relay.bootstrap import bootstrap
from services.relay.relay import Relay
from services.relay.settings import RelaySettings
from shared.background import background
from shared.http.readiness import Check
from shared.http.server import HttpServer
from shared.postgres import Pool, Session
from shared.process import Service, main


async def serve(settings: RelaySettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set; then finish the batches under way and release the shards."""
    released = asyncio.Event()
    async with Pool(settings, "relay") as pool, Session(settings, "relay readiness", checked=True) as readiness:
        relay = Relay(settings, pool)
        checks = api.checks(readiness, relay.broker, relay.publishers)
        calls = [*api.routes(settings.topic), *history.routes(pool)]
        details = api.details(relay.broker, relay.publishers)
        server = HttpServer("relay", api.DESCRIPTION, settings, calls, checks, details)

        async def publish() -> None:
            try:
                await relay.run(stop)
            finally:
                released.set()

        async with background("relay", publish):
            admin = _admin(settings, pool, checks, details)
            await asyncio.gather(server.run(stop), *(listener.run(stop) for listener in admin))
            await released.wait()


def _admin(
    settings: RelaySettings, pool: Pool, checks: Mapping[str, Check], details: Callable[[], Mapping[str, Any]]
) -> list[HttpServer]:
    """Return the operators' own listener, if there is to be one. It tells of readiness as the other one does."""
    if settings.admin_port is None:
        return []
    own = settings.model_copy(update={"port": settings.admin_port})
    description = "For operators only: parked events and what to do with them, and replays."
    calls = [*AdminApi(settings, pool).routes(), *ReplayApi(settings, pool).routes()]
    return [HttpServer("relay admin", description, own, calls, checks, details)]


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
