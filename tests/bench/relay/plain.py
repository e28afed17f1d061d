"""What the relay is measured beside: the loop that many write first, which locks some rows, sends them one by one and
marks them. At least once, and in order only while there is one of it.

`python -m tests.bench.relay.plain DATABASE_URL BOOTSTRAP TOPIC`
"""

import asyncio
import sys

import asyncpg
from aiokafka import AIOKafkaProducer

BATCH = 100
POLL_SECONDS = 0.02
LOCK = """
    SELECT outbox_id, order_id::text AS order_id, event_id::text AS event_id, payload FROM orders.outbox
    WHERE status = 'PENDING' ORDER BY outbox_id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
MARK = "UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE outbox_id = ANY ($1)"


async def main(url: str, bootstrap: str, topic: str) -> None:
    """Publish for ever."""
    connection = await asyncpg.connect(url)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    print("ready", flush=True)
    while True:
        async with connection.transaction():
            events = await connection.fetch(LOCK, BATCH)
            for event in events:
                await producer.send_and_wait(
                    topic,
                    key=event["order_id"].encode(),
                    value=event["payload"],
                    headers=[("ce_id", event["event_id"].encode())],
                )
            if events:
                await connection.execute(MARK, [event["outbox_id"] for event in events])
        if not events:
            await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
