"""Reads the watermarks: keeps the newest one."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from deploy.consumer import store
from deploy.consumer.settings import ConsumerSettings
from shared.background import LoopSupervisor
from shared.concurrency import wait_for
from shared.kafka import KafkaConsumer
from shared.notation import parse_integer, parse_timestamp
from shared.postgres import Pool
from shared.refusals import Unavailable

log = structlog.get_logger()

POLL_MILLISECONDS = 500
BACKOFF_SECONDS = 1.0
STOP_SECONDS = 2.0
TYPE = b"order.watermark.v1"


async def read(settings: ConsumerSettings, pool: Pool, stop: asyncio.Event) -> None:
    """Keep each watermark that is newer, until `stop` is set."""
    expected = (KafkaError, OSError, Unavailable, TimeoutError)
    supervisor = LoopSupervisor("watermarks", "watermarks not read", expected=expected)
    while not stop.is_set():
        with supervisor:
            await _read(settings, pool, stop)
        await wait_for(stop, supervisor.pause(BACKOFF_SECONDS))


async def _read(settings: ConsumerSettings, pool: Pool, stop: asyncio.Event) -> None:
    partition = TopicPartition(settings.watermark_topic, 0)
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, group_id=None, auto_offset_reset="earliest"
    )
    try:
        await consumer.start()
        if settings.watermark_topic not in await consumer.topics():
            return  # the relay has not made it yet
        consumer.assign([partition])
        (begin,) = (await consumer.beginning_offsets([partition])).values()
        (end,) = (await consumer.end_offsets([partition])).values()
        consumer.seek(partition, max(begin, end - 1))  # only the newest one counts
        while not stop.is_set():
            records = (await consumer.getmany(timeout_ms=POLL_MILLISECONDS)).get(partition, [])
            for record in records[-1:]:
                await _keep(settings, pool, record)
    finally:
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(STOP_SECONDS):
                await consumer.stop()


async def _keep(settings: ConsumerSettings, pool: Pool, record: ConsumerRecord) -> None:
    body = decode(dict(record.headers), record.value)
    if body is None or body["topic"] != settings.topic:
        log.warning("watermark passed over", offset=record.offset)
        return
    async with pool.connection() as db:
        await store.keep_watermark(db, settings.topic, body, parse_timestamp(body["up_to"]))


def decode(headers: dict[str, bytes], value: bytes | None) -> dict[str, Any] | None:
    """Return what a watermark tells, None if it is none that this build knows."""
    if headers.get("ce_type") != TYPE or value is None:
        return None
    try:
        body = json.loads(value)
        parse_timestamp(body["up_to"])
        offsets = {parse_integer(partition): offset for partition, offset in body["partitions"].items()}
        reached = bool(offsets) and all(type(offset) is int for offset in offsets.values())
        known = reached and isinstance(body["missing"], list)
        return body if known and isinstance(body["missing_count"], int) and isinstance(body["topic"], str) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
