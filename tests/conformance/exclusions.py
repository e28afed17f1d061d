"""What a JSON Schema cannot say about these APIs: each refusal that schemathesis must not report, and why.

schemathesis loads this file (SCHEMATHESIS_HOOKS). It runs in an environment of its own, without this repository's code.
"""

import re
from dataclasses import dataclass
from typing import Any

import schemathesis


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A refusal of a request that fits its schema. For `validation-failed`, `message` is that of one error."""

    problem: str
    reason: str
    operations: str = ".*"
    message: str = ""


VALIDATION = "validation-failed"
# Calls that ignore other parameters than these; schemathesis expects a refusal. Services ignore what a later version of
# another one may send, and a coupon was read without parameters at first.
KNOWN_PARAMETERS = {
    "GET /internal/v1/holds": {"after", "order_id", "limit", "slots", "slots_since"},
    "GET /v1/coupons/{coupon_id}": {"user_id"},
}
EXCLUSIONS = (
    # Rules about how a value is written, or about several values at once.
    Exclusion(VALIDATION, "JSON Schema takes 1.0 for an integer", message="Input should be a valid integer"),
    Exclusion(
        VALIDATION, "cursors are opaque, and only those of an earlier page exist", message="is not one of our cursors"
    ),
    Exclusion(
        VALIDATION,
        "date-time has neither a range of years nor an end of leap seconds",
        message="must (lie between the years 2 and 9998|be an RFC 3339 timestamp with its offset)",
    ),
    Exclusion(
        VALIDATION,
        "uniqueItems compares whole lines",
        "POST /(v1/orders|internal/v1/commands)",
        "must name each product once",
    ),
    Exclusion(
        VALIDATION,
        "the errors of a command include why it is none of an unknown kind",
        "POST /internal/v1/commands",
        "a command of this kind has other fields",
    ),
    Exclusion(
        VALIDATION,
        "a pattern cannot compare the ends of a range of slots",
        "GET /internal/v1/holds",
        "is neither a slot, 0 to 4095, nor a range",
    ),
    Exclusion(VALIDATION, "parameters cannot refer to each other", "GET /v1/digests", "`to` must be later than `from`"),
    Exclusion(
        VALIDATION,
        "parameters cannot refer to each other",
        "GET /v1/events",
        "either `order_id`, or `shard` and `bucket`|`shard` and `bucket` don't go|`from_sequence` and `to_sequence` go"
        "|`to_sequence` must not be less",
    ),
    Exclusion(VALIDATION, "date-time has no full minutes", "GET /v1/(digests|events)", "must be a full minute"),
    # Refusals by the state of the shop.
    Exclusion("out-of-stock|invalid-coupon|insufficient-balance|amount-too-large", "by state", "POST /v1/orders.*"),
    Exclusion("out-of-stock|stock-too-large", "by state", "POST /v1/products/{product_id}/stock"),
    Exclusion("balance-too-large", "by state", "POST /v1/accounts/{user_id}/charges"),
    Exclusion("idempotency-key-reused", "the key's first request had another body", "POST /v1/.*"),
    Exclusion(
        "replay-topic-not-allowed|replay-of-nothing|events-removed",
        "by the relay's own topics, and by what the outbox still has",
        "POST /admin/v1/replays.*",
    ),
)


def excluded(operation: str, problem: dict[str, Any]) -> bool:
    """Return whether a refusal is one of those above; of a validation, whether each of its errors is."""
    slug = str(problem.get("type", "")).removeprefix("/problems/")
    fitting = [
        exclusion
        for exclusion in EXCLUSIONS
        if re.fullmatch(exclusion.problem, slug) and re.fullmatch(exclusion.operations, operation)
    ]
    if slug != VALIDATION:
        return bool(fitting)
    return all(
        any(re.search(exclusion.message, error["message"]) for exclusion in fitting) for error in problem["errors"]
    )


def map_body(_context: Any, body: Any) -> Any:
    """Write 1.0 as 1, and order products that exist: nearly every request would be refused otherwise."""
    if isinstance(body, dict):
        return {name: map_body(_context, _known(value) if name == "lines" else value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(_context, item) for item in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body


def _known(lines: Any) -> Any:
    """Return the lines of an order with other ids of products, except for lines that are malformed."""
    if not isinstance(lines, list):
        return lines
    return [
        {**line, "product_id": f"product-{number % 50}"}
        if isinstance(line, dict) and isinstance(line.get("product_id"), str) and 0 < len(line["product_id"]) <= 9
        else line
        for number, line in enumerate(lines)
    ]


def filter_failure(_context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Keep a finding unless it is a refusal that is excluded, or a call ignores a parameter."""
    if type(failure).__name__ == "AcceptedNegativeData" and case.operation.label in KNOWN_PARAMETERS:
        return set(case.query or {}) <= KNOWN_PARAMETERS[case.operation.label]
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    return not excluded(case.operation.label, response.json())


for function in (map_body, filter_failure):
    schemathesis.hook(function)
