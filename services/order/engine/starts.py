"""Commits the start of sagas: order, saga row and idempotency key of many operations in one transaction.

It locks the orders in order of id. Pure rules then decide in arrival order which operations may begin, and set-based
statements write the decisions.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.order import domain, store
from services.order.domain import Attach, Begin, Live, Order, OrderNotFound, OrderStatus, SagaId
from services.order.engine import idempotency
from services.order.engine.idempotency import answer_or_attach_keys, claim_keys
from services.order.engine.operations import Attached, Begun, Start, Started
from services.order.saga import VERSION, Kind, Saga, Status
from shared.fast_dataclass import replace
from shared.postgres.clocks import DatabaseClock
from shared.postgres.connections import Connection, Session
from shared.refusals import Refusal


class Starts:
    """Commits batches of starts. One batcher uses it, so no lock guards its session."""

    def __init__(
        self, session: Session, clock: DatabaseClock, process_id: UUID, currency: str, payment_timeout_seconds: float
    ) -> None:
        self._session = session
        self._clock = clock
        self._process_id = process_id
        self._currency = currency
        self._payment_timeout_seconds = payment_timeout_seconds

    async def commit(self, starts: Sequence[Start]) -> Sequence[Started | BaseException]:
        """Begin the operations that may begin, in one transaction; return a result or refusal for each start.

        Raises Unavailable when it is unknown whether the transaction was committed.
        """
        results: dict[SagaId, Started | Refusal] = {}
        if all(start.order is not None and start.key is None for start in starts):
            async with self._session.statement() as db:  # no lock and no read is needed before the insert
                results.update(await self._place(db, starts))
            return [results[start.saga_id] for start in starts]
        async with self._session.transaction() as db:
            results.update(await claim_keys(db, starts))
            open_starts = [start for start in starts if start.saga_id not in results]
            results.update(await self._place(db, [start for start in open_starts if start.order is not None]))
            results.update(await self._move(db, [start for start in open_starts if start.order is None]))
            await answer_or_attach_keys(db, [(start, results[start.saga_id]) for start in open_starts])
        return [results[start.saga_id] for start in starts]

    async def _place(self, db: Connection, starts: Sequence[Start]) -> dict[SagaId, Started | Refusal]:
        placements = [(start.saga_id, start.kind, start.order, start.traceparent) for start in starts if start.order]
        if not placements:
            return {}
        timestamps = await store.place_orders(
            db,
            placements,
            version=VERSION,
            currency=self._currency,
            payment_timeout_seconds=self._payment_timeout_seconds,
            process_id=self._process_id,
        )
        begun: dict[SagaId, Started | Refusal] = {}
        for start in starts:
            assert start.order is not None
            created_at, expires_at = timestamps[start.order_id]
            self._clock.observe(created_at)
            order = replace(start.order, created_at=created_at, expires_at=expires_at, currency=self._currency)
            begun[start.saga_id] = Begun(_saga(start, order, None))
        return begun

    async def _move(self, db: Connection, starts: Sequence[Start]) -> dict[SagaId, Started | Refusal]:
        if not starts:
            return {}
        ids = sorted({start.order_id for start in starts})
        orders = await store.lock_orders(db, ids)
        live = await store.read_live_sagas(db, ids)
        now = await store.read_clock(db)
        self._clock.observe(now)
        results: dict[SagaId, Started | Refusal] = {}
        begun: list[tuple[Start, OrderStatus | None]] = []
        for start in starts:
            ruling = _rule(start, orders.get(start.order_id), live.get(start.order_id), now)
            if isinstance(ruling, Begin):
                begun.append((start, ruling.target))
                live[start.order_id] = Live(start.saga_id, start.kind)
                orders[start.order_id] = _moving(orders[start.order_id], ruling.target)
            elif isinstance(ruling, Attach):
                results[start.saga_id] = Attached(ruling.saga_id, orders[start.order_id])
            elif isinstance(ruling, Refusal):
                # An answer, not an exception: a repeat with the same key must get the same bytes.
                results[start.saga_id] = idempotency.refused(start.kind, ruling, start.order_id)
            else:
                results[start.saga_id] = idempotency.already(orders[start.order_id])
        results.update(await self._begin(db, begun))
        return results

    async def _begin(
        self, db: Connection, begun: Sequence[tuple[Start, OrderStatus | None]]
    ) -> dict[SagaId, Started | Refusal]:
        paying = [start.order_id for start, target in begun if target is None]
        closing = {start.order_id: target.value for start, target in begun if target is not None}
        orders: dict[UUID, Order] = {}
        if paying:
            orders |= await store.begin_payments(db, paying)
        if closing:
            orders |= await store.begin_closings(db, closing)
        sagas = [_saga(start, orders[start.order_id], target) for start, target in begun]
        if sagas:
            await store.insert_sagas(db, sagas, VERSION, self._process_id)
        return {saga.saga_id: Begun(saga) for saga in sagas}


def _rule(start: Start, order: Order | None, live: Live | None, now: datetime) -> domain.Ruling | Refusal:
    try:
        if order is None:
            raise OrderNotFound
        if start.kind is Kind.PAY:
            return domain.rule_on_payment(order, live, now)
        if start.expiring:
            return domain.rule_on_expiry(order, live, now)
        return domain.rule_on_cancellation(order, live)
    except Refusal as refusal:
        return refusal


def _moving(order: Order, target: OrderStatus | None) -> Order:
    return replace(order, status=OrderStatus.PAYING) if target is None else replace(order, closing=target)


def _saga(start: Start, order: Order, target: OrderStatus | None) -> Saga:
    return Saga(
        saga_id=start.saga_id,
        kind=start.kind,
        version=VERSION,
        status=Status.RUNNING if target is None else Status.COMPENSATING,
        order=order,
        attempt=order.payment_attempt,
        target=target,
        traceparent=start.traceparent,
    )
