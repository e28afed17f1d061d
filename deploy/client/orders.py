"""Orders: place, pay and cancel them, each followed to its end, and read them."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Literal
from uuid import UUID

from .lists import LISTED, every
from .models import Line, NewOrder, Order, Orders, OrderStatus, Timeline, TimelineItem
from .problems import NoFinalAnswer, Problem
from .retries import Deadline
from .transport import UNDECIDED, Call, Request, Service, Transport, new_key

ONE = "/v1/orders/{order_id}"
PLACE = Call(Service.ORDER, "POST", "/v1/orders", {201: Order, 202: Order}, NewOrder, keyed=True)
PAY = Call(Service.ORDER, "POST", f"{ONE}/payment", {200: Order, 202: Order}, keyed=True)
CANCEL = Call(Service.ORDER, "POST", f"{ONE}/cancel", {200: Order, 202: Order}, keyed=True)
GET = Call(Service.ORDER, "GET", ONE, {200: Order})
LIST = Call(Service.ORDER, "GET", "/v1/orders", {200: Orders}, query=LISTED | {"user_id", "status"})
TIMELINE = Call(Service.ORDER, "GET", f"{ONE}/timeline", {200: Timeline})
CALLS = (PLACE, PAY, CANCEL, GET, LIST, TIMELINE)


class OrderCalls:
    """The calls of the order service.

    Each of `place`, `pay` and `cancel` makes an idempotency key, and repeats the request with it until there is a final
    answer. To repeat a call that ended with NoFinalAnswer, also later or in another process, pass the error's `key`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def place(
        self,
        lines: Iterable[Line] | Mapping[str, int],
        *,
        payment: Literal["now", "later"] = "now",
        coupon_id: str | None = None,
        user_id: str | None = None,
        key: str | None = None,
        deadline_seconds: float | None = None,
    ) -> Order:
        """Place an order, and return it PAID, or with `payment="later"` PENDING_PAYMENT.

        `lines` may also be units by product. Without `user_id`, the order is the caller's own.
        """
        if isinstance(lines, Mapping):
            lines = [Line(product_id=product_id, quantity=units) for product_id, units in lines.items()]
        body = NewOrder(user_id=user_id, lines=list(lines), coupon_id=coupon_id, payment=payment)
        request = Request(PLACE, body=body, key=key or new_key())
        return await self._to_the_end(request, deadline_seconds, lambda order: order.status is not OrderStatus.PLACING)

    async def pay(
        self, order_id: UUID | str, *, key: str | None = None, deadline_seconds: float | None = None
    ) -> Order:
        """Pay an order, and return it PAID. After InsufficientBalance and a charge, call again with another key."""
        request = Request(PAY, {"order_id": str(order_id)}, key=key or new_key())
        return await self._to_the_end(request, deadline_seconds, lambda order: order.status is not OrderStatus.PAYING)

    async def cancel(
        self, order_id: UUID | str, *, key: str | None = None, deadline_seconds: float | None = None
    ) -> Order:
        """Cancel an order, and return it CANCELLED, or REFUNDED if it was paid."""
        request = Request(CANCEL, {"order_id": str(order_id)}, key=key or new_key())
        return await self._to_the_end(request, deadline_seconds, lambda order: not order.closing)

    async def get(self, order_id: UUID | str, *, deadline_seconds: float | None = None) -> Order:
        """Return an order."""
        return await self._get(order_id, self._transport.deadline(deadline_seconds))

    def list(
        self, *, user_id: str | None = None, status: OrderStatus | None = None, page_size: int = 100
    ) -> AsyncIterator[Order]:
        """Yield orders, newest first. Each page has a deadline of its own."""
        return every(self._transport, LIST, {"user_id": user_id, "status": status}, page_size)

    async def timeline(self, order_id: UUID | str, *, deadline_seconds: float | None = None) -> Sequence[TimelineItem]:
        """Return what was done for an order, oldest first."""
        request = Request(TIMELINE, {"order_id": str(order_id)})
        found: Timeline = await self._transport.model(request, self._transport.deadline(deadline_seconds))
        return found.items

    async def _get(self, order_id: UUID | str, deadline: Deadline) -> Order:
        order: Order = await self._transport.model(Request(GET, {"order_id": str(order_id)}), deadline)
        return order

    async def _to_the_end(self, request: Request, seconds: float | None, ended: Callable[[Order], bool]) -> Order:
        """Send a request until its answer is final. After a 202, look at the order until the operation has ended.

        The order alone does not say why an operation was refused. So the request is sent again with its key: it has no
        further effect, and its answer is the final one.
        """
        deadline = self._transport.deadline(seconds)
        order_id: UUID | None = None
        try:
            while True:
                answer = await self._transport.final(request, deadline)
                order: Order = answer.model
                if answer.status != 202:
                    return order
                order_id = order.order_id
                await self._until(ended, order_id, deadline)
        except NoFinalAnswer as error:
            raise NoFinalAnswer(error.last, request.key, order_id) from error
        except UNDECIDED as error:
            if order_id is None:
                raise
            raise NoFinalAnswer(error, request.key, order_id) from error

    async def _until(self, ended: Callable[[Order], bool], order_id: UUID, deadline: Deadline) -> None:
        for attempt in count():
            await self._transport.pause(attempt, deadline)
            try:
                if ended(await self._get(order_id, deadline)):
                    return
            except Problem as error:  # about reading the order, not about the operation
                raise NoFinalAnswer(error, None) from error
