"""An order takes its way through the containers: gateway, services, Kafka, consumer."""

import json
import urllib.request

from tests.containers.engine import Platform
from tests.infrastructure.waiting import wait_until

CONSUMED_SECONDS = 60
# Prints the types of the events of an order, from all partitions of the topic up to its present end.
TYPES = """
import asyncio, os, ssl, sys
from aiokafka import AIOKafkaConsumer

async def main():
    consumer = AIOKafkaConsumer(
        "orders.v1", bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"], security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512", sasl_plain_username=os.environ["KAFKA_SASL_USERNAME"],
        sasl_plain_password=open(os.environ["KAFKA_SASL_PASSWORD_FILE"]).read().strip(),
        ssl_context=ssl.create_default_context(cafile=os.environ["KAFKA_SSL_CA_FILE"]),
        isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest")
    async with consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(one) < end for one, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    if record.key == sys.argv[1].encode():
                        print(dict(record.headers)["ce_type"].decode())

asyncio.run(main())
"""


def call(platform: Platform, path: str, body: object, token: str) -> dict[str, object]:
    """POST to the gateway, and return the answer's body."""
    url = f"http://{platform.environment['GATEWAY_ADDRESS']}{path}"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=30) as answer:
        return dict(json.load(answer))


def test_an_order_through_the_gateway_reaches_topic_and_consumer(platform: Platform) -> None:
    token = platform.token("alice", "catalog:write accounts:charge")
    call(platform, "/v1/products", {"product_id": "pen", "name": "Pen", "price": 100, "stock": 10}, token)
    call(platform, "/v1/accounts/me/charges", {"amount": 1000}, token)
    order = {"lines": [{"product_id": "pen", "quantity": 2}], "payment": "now"}
    placed = call(platform, "/v1/orders", order, token)
    assert (placed["status"], placed["user_id"], placed["total_amount"]) == ("PAID", "alice", 200)

    def consumed() -> str:
        query = f"SELECT status FROM platform.orders WHERE order_id = '{placed['order_id']}'"
        psql = ["psql", "--username", "postgres", "--tuples-only", "--no-align", "--command", query, "platform"]
        return platform.compose("exec", "-T", "postgres", *psql).strip()

    assert wait_until(consumed, CONSUMED_SECONDS, "the order at the consumer") == "PAID"
    types = platform.execute("consumer", ["python", "-"], TYPES, str(placed["order_id"])).split()
    assert types == ["order.paid.v1"]
