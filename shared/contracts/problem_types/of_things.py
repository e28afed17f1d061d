"""Why an idempotency key, a product, a coupon or an account is refused, and when a caller does too much."""

from shared.contracts.problem_types.problem_type import ProblemType, Retry

_EXISTS = "If an earlier request of yours created it, read it. Otherwise choose another id."

OF_THINGS = (
    ProblemType(
        "idempotency-key-reused",
        422,
        Retry.NO,
        "the key was used for another request",
        "Use a new key for each new request. To get the answer of the first request, send it again unchanged.",
    ),
    ProblemType(
        "idempotency-in-progress",
        409,
        Retry.SAME,
        "the request with this key is in flight; the answer has `Retry-After`",
        "Send the request again until it gets the first one's answer. Don't use another key, because the operation "
        "might then run twice.",
    ),
    ProblemType(
        "too-many-requests",
        429,
        Retry.SAME,
        "the caller's quota of orders, payments and cancellations is used up, or the gateway's limit; the answer has "
        "`Retry-After`",
        "Nothing has begun. Have fewer requests under way at a time. If a program acts for many users, its operator "
        "can raise its quota.",
    ),
    ProblemType("product-exists", 409, Retry.NO, "the id already exists", _EXISTS),
    ProblemType("coupon-exists", 409, Retry.NO, "the id already exists", _EXISTS),
    ProblemType(
        "stock-too-large",
        400,
        Retry.NO,
        "more than 2^63-1 units would have been put in, minus the units taken out",
        "Put in fewer units.",
    ),
    ProblemType(
        "coupon-not-found",
        404,
        Retry.NO,
        "no such coupon",
        "Check the id. The coupon of another user gets the same answer.",
    ),
    ProblemType(
        "account-not-found",
        404,
        Retry.LATER,
        "no such account",
        "The first charge opens an account; until then the user's balance is 0. The account of another user gets the "
        "same answer.",
    ),
    ProblemType(
        "balance-too-large",
        400,
        Retry.NO,
        "the account would have been charged more than 2^63-1 in its lifetime",
        "Charge a smaller amount, or another account.",
    ),
)
