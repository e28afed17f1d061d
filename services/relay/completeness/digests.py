"""For consumers that check their records for completeness: digests of each minute, and the events of an order or a
minute.

Consumers withdraw what is missing here. So each answer is confirmed by a commit: otherwise a primary that was cut off
and replaced would answer without the events of its successor.
"""

import base64
from datetime import datetime, timedelta
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import AfterValidator, Field, model_validator

from services.relay import store
from services.relay.completeness import store as queries
from services.relay.completeness.store import WatermarkStatus
from services.relay.domain.refusals import BucketGone
from services.relay.kafka.records import rfc3339
from shared.contracts.scopes import Scope
from shared.contracts.types import Cursor, Query, Wire
from shared.encoding import INT64_MAX
from shared.http.problems import ValidationFailed
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import decode_cursor, encode_cursor, read_query
from shared.notation import Timestamp, Uuid
from shared.postgres.connections import Pool, Row

BUCKET = timedelta(minutes=1)
BUCKETS_MAX = 60
# The digest of a busy shop's minute takes a large part of a second; an answer must stay below clients' time limits.
DIGESTS_SECONDS = 1.0
EVENTS_DEFAULT, EVENTS_MAX = 100, 1000
EVENTS_BYTES = 2 * 1024 * 1024
NO_ID = UUID(int=0)
SHARDS_MAX = 64  # services/order/migrations/0002b.relay_shards.sql


def _bucket(timestamp: datetime) -> datetime:
    if timestamp.second or timestamp.microsecond:
        raise ValueError("must be a full minute")
    return timestamp


Bucket = Annotated[Timestamp, AfterValidator(_bucket)]
Shard = Annotated[int, Field(ge=0, le=SHARDS_MAX - 1)]


class DigestsQuery(Query):
    """Which minutes: from `from` until before `to` (or as far as the watermark is), of all shards or one."""

    start: Annotated[Bucket, Field(alias="from")]
    end: Annotated[Bucket | None, Field(alias="to")] = None
    shard: Shard | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "DigestsQuery":
        if self.end is not None and self.end <= self.start:
            raise ValueError("`to` must be later than `from`")
        return self


class BucketDigest(Wire):
    """A minute of a shard; `hash` is the SHA-256, in hex, over each event's 16 bytes of id and the SHA-256 of its data,
    in order of event id. `closed`: it will not change any more."""

    bucket: datetime
    shard: int
    count: int
    hash: str
    closed: bool


class Digests(Wire):
    """Digests in order of time and shard; go on at `next_from` unless it is null. An event's shard is the last byte of
    its order's id modulo `shards`."""

    items: list[BucketDigest]
    up_to: datetime | None
    next_from: datetime | None
    shards: int


class EventsQuery(Query):
    """Either an order's events, or the ids of a bucket's."""

    order_id: Uuid | None = None
    from_sequence: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    to_sequence: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    shard: Shard | None = None
    bucket: Bucket | None = None
    limit: Annotated[int, Field(ge=1), AfterValidator(lambda limit: min(limit, EVENTS_MAX))] = EVENTS_DEFAULT
    cursor: Cursor | None = None

    @model_validator(mode="after")
    def _either(self) -> "EventsQuery":
        of_bucket = {"shard", "bucket"} & self.model_fields_set
        if (self.order_id is None) == (self.shard is None or self.bucket is None):
            raise ValueError("either `order_id`, or `shard` and `bucket` are needed")
        if self.order_id is not None and of_bucket:
            raise ValueError("`shard` and `bucket` don't go together with `order_id`")
        if self.order_id is None and {"from_sequence", "to_sequence"} & self.model_fields_set:
            raise ValueError("`from_sequence` and `to_sequence` go together with `order_id`")
        if (self.to_sequence or INT64_MAX) < (self.from_sequence or 1):
            raise ValueError("`to_sequence` must not be less than `from_sequence`")
        return self


class PublishedEvent(Wire):
    """An event. Only a SENT one has `data` and `sha256` of the bytes that were published, which are in `data_base64`;
    a list of a bucket leaves the data out."""

    event_id: UUID
    order_id: UUID
    sequence: int
    type: str
    occurred_at: datetime
    status: str
    shard: int
    sha256: str | None
    data: Any = None
    data_base64: str | None = None


class PublishedEvents(Wire):
    """Events of an order in sequence, or of a bucket in order of event id."""

    items: list[PublishedEvent]
    next_cursor: str | None


def routes(pool: Pool) -> list[Route]:
    """Return the routes."""

    async def list_digests(request: web.Request) -> web.Response:
        query = read_query(request, DigestsQuery)
        return reply(await digests(pool, query))

    async def list_events(request: web.Request) -> web.Response:
        query = read_query(request, EventsQuery)
        page = await _of_order(pool, query, query.order_id) if query.order_id else await _of_bucket(pool, query)
        return reply(page)

    return [
        Route(
            "GET",
            "/v1/digests",
            Scope.EVENTS_READ,
            list_digests,
            "Count and hash of what was published, by minute and shard",
            {200: Digests},
            (BucketGone, ValidationFailed),
            query=DigestsQuery,
        ),
        Route(
            "GET",
            "/v1/events",
            Scope.EVENTS_READ,
            list_events,
            "The events of an order, or which ones a minute of a shard has",
            {200: PublishedEvents},
            (BucketGone, ValidationFailed),
            query=EventsQuery,
        ),
    ]


async def digests(pool: Pool, query: DigestsQuery) -> dict[str, Any]:
    """Return the digests of as many buckets as fit an answer. Raises BucketGone."""
    async with pool.confirmed(store.SQL["confirm_reads"]) as connection:
        # First the watermark, then the events: a bucket that is closed by then has all its events.
        status = await queries.watermark(connection)
        _check_shard(query.shard, status)
        await _check_kept(connection, query.start)
        up_to = status.up_to
        end = query.end or (query.start if up_to is None else up_to.replace(second=0, microsecond=0))
        end = min(end, status.now.replace(second=0, microsecond=0) + BUCKET)
        items: list[dict[str, Any]] = []
        bucket, started, count = query.start, monotonic(), 0
        while bucket < end and count < BUCKETS_MAX and monotonic() - started < DIGESTS_SECONDS:
            closed = up_to is not None and bucket + BUCKET <= up_to
            for row in await queries.digest(connection, bucket, bucket + BUCKET, query.shard):
                own = {name: row[name] for name in ("shard", "count", "hash")}
                items += [{"bucket": bucket, **own, "closed": closed and not row["any_waiting"]}]
            bucket, count = bucket + BUCKET, count + 1
        await _check_kept(connection, query.start)  # removed events would be missing from the counts
    following = bucket if bucket < end else None
    return {"items": items, "up_to": up_to, "next_from": following, "shards": status.shards}


def _check_shard(shard: int | None, status: WatermarkStatus) -> None:
    if shard is not None and shard >= status.shards:
        message = f"Input should be less than or equal to {status.shards - 1}"
        raise ValidationFailed([{"pointer": "/query/shard", "message": message}])


async def _check_kept(connection: Any, start: datetime) -> None:
    removed = await store.removed_up_to(connection)
    if removed is not None and start <= removed:
        oldest = removed.replace(second=0, microsecond=0) + BUCKET
        begins = rfc3339(oldest)
        raise BucketGone(f"The oldest remaining bucket begins at {begins}.", oldest=begins)


async def _of_order(pool: Pool, query: EventsQuery, order_id: UUID) -> dict[str, Any]:
    after = decode_cursor(query.cursor, int)
    first = max(query.from_sequence or 1, min(after[0] + 1, INT64_MAX) if after else 1)
    last = query.to_sequence or INT64_MAX
    async with pool.confirmed(store.SQL["confirm_reads"]) as connection:
        rows = await queries.events_of_order(connection, order_id, first, last, query.limit, EVENTS_BYTES)
    next_cursor = encode_cursor(rows[-1]["sequence"]) if rows and rows[-1]["further"] else None
    return {"items": [{**_event(row), **_data(row)} for row in rows], "next_cursor": next_cursor}


async def _of_bucket(pool: Pool, query: EventsQuery) -> dict[str, Any]:
    assert query.bucket is not None
    assert query.shard is not None
    after = decode_cursor(query.cursor, UUID)
    async with pool.confirmed(store.SQL["confirm_reads"]) as connection:
        _check_shard(query.shard, await queries.watermark(connection))
        await _check_kept(connection, query.bucket)
        rows = await queries.events_of_bucket(
            connection, query.shard, query.bucket, query.bucket + BUCKET, after[0] if after else NO_ID, query.limit + 1
        )
        await _check_kept(connection, query.bucket)
    shown = rows[: query.limit]
    next_cursor = encode_cursor(str(shown[-1]["event_id"])) if len(rows) > query.limit else None
    return {"items": [_event(row) for row in shown], "next_cursor": next_cursor}


def _event(row: Row) -> dict[str, Any]:
    names = ("event_id", "order_id", "sequence", "type", "occurred_at", "status", "shard")
    sha256 = row["hash"].hex() if row["status"] == "SENT" else None
    return {**{name: row[name] for name in names}, "sha256": sha256}


def _data(row: Row) -> dict[str, Any]:
    """Return an event's published data; nothing for an unpublished event, because an operator may still change it."""
    if row["status"] != "SENT":
        return {}
    payload: bytes = row["payload"]
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError:
        data = None
    return {"data": data, "data_base64": base64.b64encode(payload).decode()}
