"""Idempotency keys in the database: one function per query; each takes a connection."""

from collections.abc import Mapping, Sequence

from services.order.domain import SagaId
from services.order.store import SQL, Answer, KeyPlace, TransitionWrite
from shared.postgres.connections import Connection, Row


async def claim_keys(db: Connection, claims: Mapping[KeyPlace, tuple[bytes, SagaId]]) -> set[KeyPlace]:
    """Insert keys with their fingerprints for the sagas that they start; return the new ones.

    Keys are inserted in sorted order on every replica, so that two batches cannot deadlock.
    """
    places = sorted(claims)
    rows = await db.fetch(
        SQL["claim_keys"],
        *map(list, zip(*places, strict=True)),
        [claims[place][0] for place in places],
        [claims[place][1] for place in places],
    )
    return {_place(row) for row in rows}


async def read_keys(db: Connection, places: Sequence[KeyPlace]) -> dict[KeyPlace, Row]:
    """Return the rows of the existing keys."""
    return {_place(row): row for row in await db.fetch(SQL["read_keys"], *map(list, zip(*places, strict=True)))}


async def answer_keys_now(db: Connection, answers: Sequence[tuple[KeyPlace, Answer]]) -> None:
    """Store the answers of claimed keys whose operations needed no saga."""
    await db.execute(
        SQL["answer_keys_now"],
        *map(list, zip(*(place for place, _ in answers), strict=True)),
        [answer.status for _, answer in answers],
        [answer.body for _, answer in answers],
        [answer.location for _, answer in answers],
    )


async def attach_keys(db: Connection, attached: Sequence[tuple[KeyPlace, SagaId]]) -> None:
    """Attach claimed keys to the live sagas that will answer them."""
    await db.execute(
        SQL["attach_keys"],
        *map(list, zip(*(place for place, _ in attached), strict=True)),
        [saga_id for _, saga_id in attached],
    )


async def answer_keys(db: Connection, writes: Sequence[TransitionWrite]) -> None:
    """Answer the keys attached to sagas that have ended in this transaction."""
    answers = [(write.saga_id, answer) for write in writes if (answer := write.stored_answer)]
    await db.execute(
        SQL["answer_keys"],
        [saga_id for saga_id, _ in answers],
        [answer.status for _, answer in answers],
        [answer.body for _, answer in answers],
        [answer.location for _, answer in answers],
    )


def _place(row: Row) -> KeyPlace:
    return (row["user_id"], row["operation"], row["key"])
