"""`python -m services.relay`: starts the relay, or runs one of its commands."""

import logging
from pathlib import Path

from aiokafka.errors import KafkaError

from services.relay.process import serve
from services.relay.publishing.bootstrap import bootstrap
from services.relay.settings import RelaySettings
from shared.process.main import Service, main


def quiet_the_client() -> None:
    """Keep the Kafka client's own messages out of the log; the relay logs what matters of them.

    The client logs every try of every connection. A dropped producer leaves futures with unretrieved errors, and
    asyncio reports each of them.
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
