"""The other of a saga's commits: its transition, the order, the event and the keys' answers, in one transaction.

Every transition is guarded on the saga's id, owner and status and on the order's status. One that finds nothing
has lost: whoever asked for it must read again and act on what is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from services.order import answers, store
from services.order.answers import Answer
from services.order.domain import Order
from services.order.saga import Saga, Transition
from services.order.store import order_of, stored_lines
from shared.http.server import encode
from shared.ids import uuid7
from shared.postgres import Connection, Row, Session


@dataclass(frozen=True, slots=True)
class Change:
    """A transition that a runner wants committed, and what its saga did since the last one."""

    saga: Saga
    transition: Transition
    log: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Changed:
    """The transition was committed: the order as it is now, and the answer if the saga has ended."""

    order: Order
    answer: Answer | None


class Transitions:
    """Commits batches of transitions. Used by one batcher, so its session is its own."""

    def __init__(self, session: Session, process_id: UUID) -> None:
        self._session = session
        self._process_id = process_id

    async def commit(self, changes: Sequence[Change]) -> Sequence[Changed | BaseException | None]:
        """Commit what its guards allow; return None for each that lost.

        Raises Unavailable when it is unknown whether the transaction was committed.
        """
        async with self._session.transaction() as db:
            rows = {row["saga_id"]: row for row in await self._apply(db, changes)}
            done = [_done(change, rows[change.saga.saga_id]) for change in changes if change.saga.saga_id in rows]
            await _insert_events(db, [item for item in done if item.change.transition.event])
            await _answer_keys(db, [item for item in done if item.answer])
        results = {item.change.saga.saga_id: Changed(item.order, item.answer) for item in done}
        return [results.get(change.saga.saga_id) for change in changes]

    async def _apply(self, db: Connection, changes: Sequence[Change]) -> list[Row]:
        moves = [change.transition for change in changes]
        orders = [change.saga.order for change in changes]
        return await db.fetch(
            store.SQL["apply_transitions"],
            [change.saga.saga_id for change in changes],
            [order.order_id for order in orders],
            [move.saga_from.value for move in moves],
            [move.saga_to.value for move in moves],
            [move.order_from.value for move in moves],
            [move.order_to.value for move in moves],
            [move.target.value if move.target else None for move in moves],
            [move.event is not None for move in moves],
            [stored_lines(order.lines) if order.subtotal_amount is not None else None for order in orders],
            [order.subtotal_amount for order in orders],
            [order.discount_amount for order in orders],
            [move.problem for move in moves],
            [orjson.dumps(change.log).decode() for change in changes],
            self._process_id,
        )


@dataclass(frozen=True, slots=True)
class _Done:
    change: Change
    order: Order
    view: bytes
    answer: Answer | None


def _done(change: Change, row: Row) -> _Done:
    order = order_of(row)
    view = encode(order.view())
    ended = not change.transition.saga_to.live
    answer = answers.final(change.saga.kind, order, change.transition.problem, view) if ended else None
    return _Done(change, order, view, answer)


async def _insert_events(db: Connection, done: Sequence[_Done]) -> None:
    """Write the events; `sequence` was counted while the order's row was locked. One wake-up for all."""
    if not done:
        return
    await db.execute(
        store.SQL["insert_events"],
        [uuid7() for _ in done],
        [item.order.order_id for item in done],
        [item.order.event_sequence for item in done],
        [item.change.transition.event for item in done],
        [item.view for item in done],
        [item.change.saga.traceparent for item in done],
    )
    await db.execute(store.SQL["notify_outbox"])


async def _answer_keys(db: Connection, done: Sequence[_Done]) -> None:
    if not done:
        return
    ends = [(item.change.saga.saga_id, item.answer) for item in done if item.answer is not None]
    await db.execute(
        store.SQL["answer_keys"],
        [saga_id for saga_id, _ in ends],
        [answer.status for _, answer in ends],
        [answer.body for _, answer in ends],
        [answer.location for _, answer in ends],
    )
