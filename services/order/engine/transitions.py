"""Commits a saga's transitions: order, saga, outbox event and idempotency answers in one transaction.

Every transition is guarded on the saga's id, owner and status, and on the order's status. If the guards match no row,
the transition has lost. Its runner must then read the saga again and act on what is stored.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.order import store
from services.order.domain import Order
from services.order.engine import idempotency, key_store
from services.order.saga import Kind, Saga, Transition, apply_transition
from services.order.store import Answer, TransitionWrite
from shared.encoding import encode
from shared.fast_dataclass import fast_dataclass
from shared.postgres.clocks import DatabaseClock
from shared.postgres.connections import Session


@fast_dataclass(frozen=True, slots=True)
class TransitionRequest:
    """A transition to commit, and the log entries of its saga since the last commit."""

    saga: Saga
    transition: Transition
    log: Sequence[dict[str, Any]]


@fast_dataclass(frozen=True, slots=True)
class TransitionResult:
    """A committed transition: the order as stored now, and the client's answer if the saga has ended."""

    order: Order
    answer: Answer | None


class Transitions:
    """Commits batches of transitions. One batcher uses it, so no lock guards its session."""

    def __init__(self, session: Session, clock: DatabaseClock, process_id: UUID) -> None:
        self._session = session
        self._clock = clock
        self._process_id = process_id

    async def commit(self, requests: Sequence[TransitionRequest]) -> Sequence[TransitionResult | BaseException | None]:
        """Commit the transitions whose guards match; return their results, and None for each that lost.

        Without payments and closings it is one statement. Raises Unavailable when it is unknown whether the batch was
        committed.
        """
        # Until a payment or closing ends, further idempotency keys may attach to it. No key can attach to a placement.
        joined = any(request.saga.kind in (Kind.PAY, Kind.CLOSE) for request in requests)
        async with self._session.transaction() if joined else self._session.statement() as db:
            if not self._clock.known:
                self._clock.observe(await store.read_clock(db))
            now = self._clock.now()
            writes = [_write_of(request, now) for request in requests]
            won, read_at = await store.apply_transitions(db, writes, self._process_id)
            if joined:
                await key_store.answer_keys(db, [write for write in writes if write.saga_id in won])
        if read_at is not None:
            self._clock.observe(read_at)
        return [TransitionResult(write.order, write.answer) if write.saga_id in won else None for write in writes]


def _write_of(request: TransitionRequest, now: datetime) -> TransitionWrite:
    """Return what a transition writes. The order can be computed before the statement: it is guarded on the saga's
    status, and while a saga is live, only its own transitions change its order."""
    saga, transition = request.saga, request.transition
    order = apply_transition(saga.order, transition, now)
    ended = not transition.saga_to.live
    view = encode(order.view()) if transition.event or (ended and transition.problem is None) else b""
    answer = idempotency.final(saga.kind, order, transition.problem, view) if ended else None
    log = encode(_without_detail_of(transition.problem, request.log)).decode()
    return TransitionWrite(saga.saga_id, transition, order, log, view, answer, saga.traceparent)


def _without_detail_of(problem: Mapping[str, Any] | None, log: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the log's entries without the text that the saga's problem has too. The timeline reads it from there."""
    if problem is None:
        return log
    detail = problem.get("detail")
    return [{name: value for name, value in entry.items() if (name, value) != ("detail", detail)} for entry in log]
