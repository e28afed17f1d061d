"""What the consumer answers: how far its records are proven complete, and what it could not read."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from deploy.consumer import store
from deploy.consumer.completeness import proven_up_to
from deploy.consumer.settings import ConsumerSettings
from shared.contracts.types import Wire
from shared.http.routes import Route
from shared.http.server import reply
from shared.postgres import Pool, Row

DESCRIPTION = "A platform that subscribes to the order topic, and can prove that it missed nothing."
LIST_MAX = 100


class Finding(Wire):
    """An event that our records lacked (`missing`), had alone (`unexpected`) or had with other bytes (`altered`)."""

    kind: str
    event_id: UUID
    order_id: UUID
    sequence: int


class Bucket(Wire):
    """A minute of a shard: OPEN may still change, DIFFERS, STALE has got an event since it was compared, or EQUAL."""

    bucket: datetime
    shard: int
    state: str
    compared_at: datetime
    findings: list[Finding]


class Completeness(Wire):
    """`proven_up_to`: every minute before it was found equal. `parked`: events that the watermark excepts."""

    watermark: datetime | None
    compared_up_to: datetime | None
    proven_up_to: datetime | None
    parked_count: int
    parked: list[Any]
    waiting_orders: int
    dead_letters: int
    unproven: list[Bucket]
    repaired: list[Bucket]


class DeadLetter(Wire):
    """A record that could not be read."""

    topic: str
    partition: int
    offset: int
    order_id: UUID | None
    sequence: int | None
    reason: str
    received_at: datetime


class DeadLetters(Wire):
    """Those that nobody has dealt with, oldest first."""

    items: list[DeadLetter]


def routes(settings: ConsumerSettings, pool: Pool) -> list[Route]:
    """Return the calls."""

    async def show_completeness(_request: web.Request) -> web.Response:
        async with pool.connection() as db:
            watermark = await store.watermark(db, settings.topic)
            unproven = await store.unproven_buckets(db, LIST_MAX)
            repaired = await store.repaired_buckets(db, LIST_MAX)
            counts = await store.counts(db)
        return reply(
            {
                "watermark": watermark and watermark.up_to,
                "compared_up_to": watermark and watermark.checked_up_to,
                "proven_up_to": proven_up_to(watermark, unproven),
                "parked_count": watermark.missing_count if watermark else 0,
                "parked": watermark.missing if watermark else [],
                "waiting_orders": counts["waiting_orders"],
                "dead_letters": counts["dead_letters"],
                "unproven": [_bucket(row) for row in unproven],
                "repaired": [_bucket(row) for row in repaired],
            }
        )

    async def list_dead_letters(_request: web.Request) -> web.Response:
        async with pool.connection() as db:
            letters = await store.dead_letters(db, LIST_MAX)
        return reply({"items": [_letter(row) for row in letters]})

    return [
        Route("GET", "/v1/completeness", show_completeness, "How far our records are proven", {200: Completeness}),
        Route("GET", "/v1/dead-letters", list_dead_letters, "What could not be read", {200: DeadLetters}),
    ]


def _bucket(row: Row) -> Mapping[str, Any]:
    return {name: row[name] for name in ("bucket", "shard", "state", "compared_at", "findings")}


def _letter(row: Row) -> Mapping[str, Any]:
    names = ("topic", "partition", "order_id", "sequence", "reason", "received_at")
    return {**{name: row[name] for name in names}, "offset": row["record_offset"]}
