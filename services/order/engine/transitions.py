"""The other of a saga's commits: its transition, the order, the event and the keys' answers, in one transaction.

Every transition is guarded on the saga's id, owner and status and on the order's status. One that finds nothing
has lost: whoever asked for it must read again and act on what is there.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.order import store
from services.order.domain import Order
from services.order.engine import idempotency, key_store
from services.order.saga import Kind, Saga, Transition, moved
from services.order.store import Answer, TransitionWrite
from shared.fast_dataclass import fast_dataclass
from shared.http.server import encode
from shared.postgres import DatabaseClock, Session


@fast_dataclass(frozen=True, slots=True)
class TransitionRequest:
    """A transition that a runner wants committed, and what its saga did since the last one."""

    saga: Saga
    transition: Transition
    log: Sequence[dict[str, Any]]


@fast_dataclass(frozen=True, slots=True)
class TransitionResult:
    """The transition was committed: the order as it is now, and the answer if the saga has ended."""

    order: Order
    answer: Answer | None


class Transitions:
    """Commits batches of transitions. Used by one batcher, so its session is its own."""

    def __init__(self, session: Session, clock: DatabaseClock, process_id: UUID) -> None:
        self._session = session
        self._clock = clock
        self._process_id = process_id

    async def commit(self, requests: Sequence[TransitionRequest]) -> Sequence[TransitionResult | BaseException | None]:
        """Commit what its guards allow, in one statement where it can be; return None for each that lost.

        Raises Unavailable when it is unknown whether it was committed.
        """
        # Further keys may join a payment or a closing at any moment until it ends, but no placement.
        joined = any(request.saga.kind in (Kind.PAY, Kind.CLOSE) for request in requests)
        async with self._session.transaction() if joined else self._session.statement() as db:
            if not self._clock.known:
                self._clock.observe(await store.read_clock(db))
            now = self._clock.now()
            writes = [_write_of(request, now) for request in requests]
            won, heard = await store.apply_transitions(db, writes, self._process_id)
            if joined:
                await key_store.answer_keys(db, [write for write in writes if write.saga_id in won])
        if heard is not None:
            self._clock.observe(heard)
        return [TransitionResult(write.order, write.answer) if write.saga_id in won else None for write in writes]


def _write_of(request: TransitionRequest, now: datetime) -> TransitionWrite:
    """Work out what a transition writes. Its order can be computed here: while a saga is live, nothing but its own
    transitions changes its order, and the statement is guarded on the saga's status."""
    saga, transition = request.saga, request.transition
    order = moved(saga.order, transition, now)
    ended = not transition.saga_to.live
    view = encode(order.view()) if ended or transition.event else b""
    answer = idempotency.final(saga.kind, order, transition.problem, view) if ended else None
    return TransitionWrite(
        saga.saga_id, transition, order, encode(request.log).decode(), view, answer, saga.traceparent
    )
