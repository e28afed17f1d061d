"""Why a call failed: one exception for each problem type of docs/api.md, and three for calls without an answer.

ClientError
├── Problem           the service said no; its subclasses are the problem types
├── NoFinalAnswer     the operation may or may not have happened, and the time is up. Repeat it with `key`
├── OutcomeUnknown    the same for a call that can't be repeated safely. Read the state, then decide
└── UnexpectedAnswer  an answer that is none of these services'
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID


class ClientError(Exception):
    """Base of everything that a call raises by itself. What a token's callable raises passes through."""


class NoFinalAnswer(ClientError):
    """No final answer within the deadline, or several times a bug of the service. `last`: what the last attempt met."""

    def __init__(self, last: Exception | None, key: str | None, order_id: UUID | None = None) -> None:
        super().__init__(f"no final answer; the last attempt: {_told(last)}")
        self.last, self.key, self.order_id = last, key, order_id


class OutcomeUnknown(ClientError):
    """The call may have had its effect, and has no key with which it could be repeated."""

    def __init__(self, last: Exception | None) -> None:
        super().__init__(f"the call may have had its effect: {_told(last)}")
        self.last = last


class UnexpectedAnswer(ClientError):
    """Something else answered, for example a proxy, or the answer can't be read."""

    def __init__(self, status: int, text: str, retry_after: float | None = None) -> None:
        super().__init__(f"an answer that can't be understood: status {status}, {text[:200]!r}")
        self.status, self.retry_after = status, retry_after


class Problem(ClientError):
    """A service's refusal. Decide by the class or the slug; `detail` is for people. `members`: those of its type."""

    kind: ClassVar[str] = ""  # the slug of a subclass

    def __init__(self, body: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.slug = str(body["type"]).rpartition("/")[2]
        self.status, self.detail = int(body["status"]), str(body.get("detail", ""))
        self.title, self.instance = str(body.get("title", "")), str(body.get("instance", ""))
        standard = {"type", "title", "status", "detail", "instance"}
        self.members = {name: value for name, value in body.items() if name not in standard}
        self.retry_after = retry_after
        super().__init__(f"{self.status} {self.slug}: {self.detail or self.title}")

    @property
    def order_id(self) -> UUID | None:
        """Return the order that was refused, if the problem is about one."""
        return UUID(self.members["order_id"]) if "order_id" in self.members else None


class OfProducts(Problem):
    """Base of the problems that name products."""

    @property
    def product_ids(self) -> Sequence[str]:
        """Return all the products that this is about."""
        return list(self.members.get("product_ids", ()))


class ProductNotFound(OfProducts):
    kind = "product-not-found"


class OutOfStock(OfProducts):
    kind = "out-of-stock"


class InvalidCoupon(Problem):
    kind = "invalid-coupon"

    @property
    def reason(self) -> str:
        """Return why: not-found, not-owner, expired, already-used, reserved or below-minimum."""
        return str(self.members["reason"])

    @property
    def min_subtotal(self) -> int | None:
        """Return the least subtotal, if the order's is below it."""
        return self.members.get("min_subtotal")


class InsufficientBalance(Problem):
    kind = "insufficient-balance"

    @property
    def required(self) -> int:
        """Return the amount that was to be paid."""
        return int(self.members["required"])

    @property
    def available(self) -> int:
        """Return the balance."""
        return int(self.members["available"])


class Forbidden(Problem):
    kind = "forbidden"

    @property
    def required_scope(self) -> str | None:
        """Return the scope that the token lacks."""
        return self.members.get("required_scope")


class ValidationFailed(Problem):
    kind = "validation-failed"

    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """Return up to twenty errors, each as a pointer and a message."""
        return list(self.members.get("errors", ()))


class AmountTooLarge(Problem):
    kind = "amount-too-large"


class OrderNotFound(Problem):
    kind = "order-not-found"


class OrderExpired(Problem):
    kind = "order-expired"


class OrderNotPayable(Problem):
    kind = "order-not-payable"


class OrderNotCancellable(Problem):
    kind = "order-not-cancellable"


class UndoneByOperator(Problem):
    kind = "undone-by-operator"


class OrderWithdrawn(Problem):
    kind = "order-withdrawn"


class Fenced(Problem):
    kind = "fenced"


class CouponNotReserved(Problem):
    kind = "coupon-not-reserved"


class OrderHasCoupon(Problem):
    kind = "order-has-coupon"


class IdempotencyKeyReused(Problem):
    kind = "idempotency-key-reused"


class IdempotencyInProgress(Problem):
    kind = "idempotency-in-progress"


class TooManyRequests(Problem):
    kind = "too-many-requests"


class ProductExists(Problem):
    kind = "product-exists"


class CouponExists(Problem):
    kind = "coupon-exists"


class StockTooLarge(Problem):
    kind = "stock-too-large"


class CouponNotFound(Problem):
    kind = "coupon-not-found"


class AccountNotFound(Problem):
    kind = "account-not-found"


class BalanceTooLarge(Problem):
    kind = "balance-too-large"


class Unauthenticated(Problem):
    kind = "unauthenticated"


class Misdirected(Problem):
    kind = "misdirected"

    @property
    def slot(self) -> int | None:
        """Return the slot of the user or of the order, None for an order from before orders had one."""
        slot: int | None = self.members.get("slot")
        return slot


class MalformedBody(Problem):
    kind = "malformed-body"


class BodyTooLarge(Problem):
    kind = "body-too-large"


class UnsupportedMediaType(Problem):
    kind = "unsupported-media-type"


class RequestTimeout(Problem):
    kind = "request-timeout"


class NotFound(Problem):
    kind = "not-found"


class MethodNotAllowed(Problem):
    kind = "method-not-allowed"


class BadRequest(Problem):
    kind = "bad-request"


class ExpectationFailed(Problem):
    kind = "expectation-failed"


class Unavailable(Problem):
    kind = "unavailable"


class InternalError(Problem):
    kind = "internal-error"


KINDS: Mapping[str, type[Problem]] = {
    one.kind: one for one in (*Problem.__subclasses__(), *OfProducts.__subclasses__()) if one.kind
}


def problem(body: Mapping[str, Any], retry_after: float | None = None) -> Problem:
    """Return the exception for a problem. A type that this version does not know is a plain Problem."""
    return KINDS.get(str(body["type"]).rpartition("/")[2], Problem)(body, retry_after)


def _told(error: Exception | None) -> str:
    return "there was none" if error is None else str(error) or type(error).__name__
