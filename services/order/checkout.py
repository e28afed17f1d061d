"""The use cases: place, pay, cancel and expire. Start the saga, run it, and wait for its end or the deadline."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import asyncpg
import structlog

from services.order import store
from services.order.domain import Order, OrderId, SagaId
from services.order.engine.admission import Admission
from services.order.engine.idempotency import ended, is_known, read_answer
from services.order.engine.operations import Attached, Begun, KeyClaim, Start, Started, new_order
from services.order.engine.quota import Quota
from services.order.engine.registry import Lane, SagaRegistry
from services.order.engine.runner import Runner
from services.order.saga import Kind
from services.order.store import Answer
from shared.batcher import Batcher
from shared.fast_dataclass import fast_dataclass
from shared.postgres.clocks import DatabaseClock
from shared.postgres.connections import Pool
from shared.postgres.errors import explain, needs_operator
from shared.process import trace
from shared.refusals import NothingSent, Refusal, SlotClosed, Unavailable
from shared.tracing import spans
from shared.tracing.spans import NOT_RECORDED

log = structlog.get_logger()

# The first and the longest pause between reads of a saga that another process runs, while its client waits. Each pause
# is twice the previous one: otherwise the reads of many clients that wait for a long time would fill the pool.
LOOK_INTERVAL_SECONDS = 0.1
LOOK_INTERVAL_MAX_SECONDS = 1.0


@fast_dataclass(frozen=True, slots=True)
class Pending:
    """The saga still runs; `order` is the order at the start of the saga."""

    order: Order


class Checkout:
    """Operations on orders, for the API and the scheduler."""

    def __init__(
        self,
        pool: Pool,
        clock: DatabaseClock,
        starts: Batcher[Start, Started],
        runner: Runner,
        registry: SagaRegistry,
        admission: Admission,
        quota: Quota,
        *,
        deadline_seconds: float,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._starts = starts
        self._runner = runner
        self._registry = registry
        self._admission = admission
        self._quota = quota
        self._deadline_seconds = deadline_seconds
        self._looking_up = asyncio.Lock()

    async def place(
        self,
        user_id: str,
        lines: Sequence[tuple[str, int]],
        coupon_id: str | None,
        *,
        pay_now: bool,
        key: KeyClaim | None,
        deadline: float | None = None,
        subject: str | None = None,
    ) -> Answer | Pending:
        """Place an order and wait for its end, at most until `deadline` (the event loop's time).

        `lines`: product ids and quantities. `subject`: whose quota the order uses, None for nobody's; likewise in `pay`
        and `cancel`. Raises Unavailable if there is no capacity for the order, TooManyRequests if the quota is used up.
        """
        self._admission.check_capacity()
        lanes = self._registry.lanes_of(coupon_id, (product_id for product_id, _ in lines))
        if not self._admission.has_capacity_in(*lanes):
            if not await self._is_repeated(key):
                self._admission.check_lanes(*lanes)
            self._admission.check_capacity()
        if not self._clock.known:
            raise Unavailable("The database has not answered yet.")
        order = new_order(self._clock.now(), user_id, lines, coupon_id, pay_now=pay_now)
        kind = Kind.PLACE_NOW if pay_now else Kind.PLACE_LATER
        start = Start(kind, order.order_id, order, key, traceparent=_traceparent())
        return await self._carry_out(start, deadline, subject)

    async def pay(
        self, order_id: OrderId, key: KeyClaim | None, deadline: float | None = None, subject: str | None = None
    ) -> Answer | Pending:
        """Pay an order that was placed for later payment."""
        start = Start(Kind.PAY, order_id, key=key, traceparent=_traceparent())
        return await self._carry_out(start, deadline, subject)

    async def cancel(
        self, order_id: OrderId, key: KeyClaim | None, deadline: float | None = None, subject: str | None = None
    ) -> Answer | Pending:
        """Cancel an order, with a refund if it was paid."""
        start = Start(Kind.CLOSE, order_id, key=key, traceparent=_traceparent())
        return await self._carry_out(start, deadline, subject)

    async def expire(self, orders: Sequence[OrderId], lane: Lane) -> list[SagaId]:
        """Begin to close expired orders of one lane; return the sagas that began.

        Orders that were paid, cancelled or taken by another replica in the meantime are skipped.
        """
        starts = [Start(Kind.CLOSE, order_id, expiring=True) for order_id in orders]
        deadline = self.deadline()
        beginnings = (self._begin(start, deadline, lane) for start in starts)
        results = await asyncio.gather(*beginnings, return_exceptions=True)
        failures = [r for r in results if isinstance(r, BaseException) and not isinstance(r, Refusal)]
        if failures:
            log.warning("expiry.incomplete", failed=len(failures), error=str(failures[0]))
        return [start.saga_id for start, result in zip(starts, results, strict=True) if _begun(start, result)]

    async def _is_repeated(self, key: KeyClaim | None) -> bool:
        """Return whether an earlier request used this key, so that this request begins nothing.

        Only one key is read at a time: refused requests must not take the connections of admitted ones.
        """
        if key is None or self._looking_up.locked():
            return False
        async with self._looking_up, self._pool.connection() as db:
            return await is_known(db, key)

    def deadline(self) -> float:
        """Return the time of the event loop at which a request that comes now must be answered."""
        return asyncio.get_running_loop().time() + self._deadline_seconds

    async def _carry_out(self, start: Start, deadline: float | None, subject: str | None) -> Answer | Pending:
        """Begin an operation within the subject's quota, and wait for its end."""
        self._admission.check_hard_limit()
        self._admission.check_open(start.order_id)
        self._quota.enter(subject)
        try:
            return await self._begin_and_wait(start, deadline or self.deadline())
        finally:
            # After an answer 202, the saga still runs.
            self._registry.when_ended(start.saga_id, partial(self._quota.leave, subject))

    async def _begin_and_wait(self, start: Start, deadline: float) -> Answer | Pending:
        """Begin an operation and wait for its end, at most until `deadline` (the event loop's time).

        After the deadline the server would cut the request off and answer 503, although the operation has begun.
        """
        lanes: tuple[Lane | str, ...] = ()
        if start.order is not None:
            products = (line.product_id for line in start.order.lines)
            lanes = self._registry.lanes_of(start.order.coupon_id, products)
        started = await self._begin(start, deadline, *lanes)
        if isinstance(started, Answer):
            return started
        waiting = NOT_RECORDED
        if isinstance(started, Begun):
            saga_id, order = started.saga.saga_id, started.saga.order
        else:
            saga_id, order = started.saga_id, started.order
            waiting = spans.current.get().child("wait for saga")
        answer = await self._registry.wait(saga_id, deadline - asyncio.get_running_loop().time())
        if answer is None:
            answer = await self._look_for_end(saga_id, start.key, deadline)
        waiting.end()
        return answer or Pending(order)

    async def _begin(self, start: Start, deadline: float, *lanes: Lane | str) -> Started:
        """Commit the start and begin to run its saga. Raises a Refusal if the key is in use.

        `lanes`: the saga's lanes as far as they are known. A payment or cancellation has none until its order is read.
        """
        self._registry.claim(start.saga_id, *lanes)
        try:
            started = await self._submit(start, deadline)
            if isinstance(started, Begun):
                self._runner.run(started.saga)
            elif _begun(start, started):
                # If this fails, the sweep runs the saga.
                with suppress(Unavailable, TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._runner.take_up(start.saga_id)
        finally:
            self._registry.unclaim(start.saga_id)
        return started

    async def _submit(self, start: Start, deadline: float) -> Started:
        if self._starts.full:
            raise Unavailable("Too many orders are waiting to be started.")
        try:
            return await self._starts.submit(start)
        except Unavailable as error:
            if isinstance(error, NothingSent | SlotClosed) or needs_operator(error):
                raise  # nothing was committed
            log.warning("start.outcome_unknown", saga_id=str(start.saga_id), error=explain(error))
            return await self._resolve_doubt(start, error, deadline)

    async def _resolve_doubt(self, start: Start, error: Unavailable, deadline: float) -> Started:
        """Find out, until the deadline, whether a start was committed: a started operation never gets 503.

        If no saga is found, submit the same start with the same ids again. If the first commit still runs, the second
        one waits for it. Then the second one either succeeds in its place or violates a unique index.
        """
        loop = asyncio.get_running_loop()
        while loop.time() < deadline and not self._registry.waiters_released:
            try:
                if (found := await self._find(start)) is not None:
                    return found
                return await self._starts.submit(start)
            except Unavailable:
                await asyncio.sleep(LOOK_INTERVAL_SECONDS)
            except (Refusal, asyncpg.UniqueViolationError):
                if (found := await self._find(start)) is not None:
                    return found
                raise
        raise error

    async def _find(self, start: Start) -> Attached | None:
        """Return the start's saga if it is stored. By now another process may own it or may have ended it."""
        async with self._pool.connection() as db:
            found = await store.get_saga(db, start.saga_id)
        return Attached(start.saga_id, found[0].order) if found else None

    async def _look_for_end(self, saga_id: SagaId, key: KeyClaim | None, deadline: float) -> Answer | None:
        """Return the answer of a saga that did not end in this process, None if it is not known by the deadline.

        Prefer the answer stored with the key: the order may have changed since, and every repeat of a key must get the
        same answer.
        """
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout_at(deadline):
                pause = LOOK_INTERVAL_SECONDS
                while True:
                    async with self._pool.connection() as db:
                        found = await store.get_saga(db, saga_id)
                        if found is not None and not found[0].status.live:
                            return (await read_answer(db, key) if key else None) or ended(found[0])
                    if self._registry.waiters_released:
                        return None
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LOOK_INTERVAL_MAX_SECONDS)
        return None


def _begun(start: Start, result: object) -> bool:
    """Return whether this start has begun, even if this was only found out later."""
    return isinstance(result, Begun) or (isinstance(result, Attached) and result.saga_id == start.saga_id)


def _traceparent() -> str | None:
    mark = trace.current.get()
    return spans.current.get().traceparent or (mark.traceparent if mark else None)
