"""The answers of a route in its OpenAPI document: replies with their headers, and every problem type by status."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.contracts.examples import VALUES
from shared.contracts.problem_types import CATALOGUE
from shared.contracts.scopes import Scope
from shared.http import problems
from shared.http.openapi_examples import Examples
from shared.http.routes import Route
from shared.identity.callers import PUBLIC, Forbidden, Unauthenticated
from shared.refusals import Refusal, Unavailable

Failure = type[Refusal | Unavailable]
_TEXT = {"type": "string"}
_AMOUNT = {"type": "integer"}
PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem. `type` is also the path of its page. The members that are not required depend on "
    "the type.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Decide by this member."},
        "title": {**_TEXT, "description": "For people."},
        "status": {"type": "integer"},
        "detail": {**_TEXT, "description": "For people."},
        "instance": {"type": "string", "format": "uri-reference", "description": "The path as it was sent."},
        "order_id": {"type": "string", "format": "uuid"},
        "product_ids": {"type": "array", "items": _TEXT},
        "reason": _TEXT,
        "min_subtotal": _AMOUNT,
        "required": _AMOUNT,
        "available": _AMOUNT,
        "required_scope": _TEXT,
        "oldest": {"type": "string", "format": "date-time"},
        "errors": {
            "type": "array",
            "minItems": 1,
            "maxItems": 20,
            "items": {
                "type": "object",
                "required": ["pointer", "message"],
                "properties": {"pointer": _TEXT, "message": _TEXT},
            },
        },
    },
}
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's own, or one that the service made.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "traceparent": {
        "description": "The trace to which the request belongs (W3C Trace Context).",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
    "Location": {
        "description": "The path of the order.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {
        "description": '`Bearer`; with a token that is not valid, `Bearer error="invalid_token"`.',
        "required": True,
        "schema": {"type": "string", "pattern": "^Bearer"},
    },
}


def responses(route: Route, mode: str, examples: Examples) -> dict[str, Any]:
    """Return the `responses` of a route's operation. `mode`: of the authenticator."""
    found: dict[str, Any] = {}
    for status, model in route.replies.items():
        own = ("Location",) if route.locates and status in (201, 202) else ()
        found[str(status)] = {
            "description": _REPLIES.get(status, route.summary),
            "headers": _headers(*own),
            **({"content": media(model.__name__, examples, status)} if model else {}),
        }
    refusals = _refusals(route, mode)
    for status in sorted({refusal.status for refusal in refusals}):
        found[str(status)] = _problems([one for one in refusals if one.status == status], route)
    return found


_REPLIES = {
    201: "It was created.",
    202: "The operation continues. Repeat the GET of `Location` until it has ended.",
}


def media(model: str, examples: Examples, status: int = 200) -> dict[str, Any]:
    """Return the `content` of a body; `status`: of the answer that has it."""
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"application/json": {"schema": schema, "example": examples.of_model(model, status)}}


def _refusals(route: Route, mode: str) -> list[Failure]:
    """Return every failure that the route can answer, each once."""
    refusals: list[Failure] = [*route.refusals, problems.BadRequest, Unavailable]
    if route.policy is not PUBLIC and mode != "open":
        refusals += [Unauthenticated, Forbidden] if isinstance(route.policy, Scope) else [Unauthenticated]
    if route.body:
        refusals += [
            problems.MalformedBody,
            problems.ValidationFailed,
            problems.RequestTimeout,
            problems.BodyTooLarge,
            problems.UnsupportedMediaType,
        ]
    elif route.query:
        refusals.append(problems.ValidationFailed)
    refusals += [problems.ExpectationFailed, problems.InternalError]
    return [one for one in dict.fromkeys(refusals) if mode != "open" or one is not Forbidden]


def _problems(refusals: Sequence[Failure], route: Route) -> dict[str, Any]:
    """Return the response of one status: its problem types, each with a link to its page and an example."""
    types = sorted({f"/problems/{one.slug}" for one in refusals})
    waits = [one for one in refusals if "`Retry-After`" in CATALOGUE[one.slug].meaning]
    headers = _headers(*(["WWW-Authenticate"] if Unauthenticated in refusals else []))
    if problems.BadRequest in refusals:  # one that could not be read has no ids
        headers = {name: {**HEADERS[name], "required": False} for name in headers}
    if len(waits) == len(refusals):
        headers |= _headers("Retry-After")
    elif waits:
        headers["Retry-After"] = {**HEADERS["Retry-After"], "required": False}
    return {
        "description": "\n".join(
            f"- [`{one.slug}`]({CATALOGUE[one.slug].path}): {problems.title(one)}." for one in refusals
        ),
        "headers": headers,
        "content": {
            problems.CONTENT_TYPE: {
                "schema": {
                    "allOf": [{"$ref": "#/components/schemas/Problem"}],
                    "properties": {"type": {"enum": types}},
                },
                "examples": {one.slug: {"value": _example(one, route)} for one in refusals},
            }
        },
    }


def _example(failure: Failure, route: Route) -> dict[str, Any]:
    title, known = problems.title(failure), CATALOGUE[failure.slug]
    return {
        "type": known.path,
        "title": title,
        "status": known.status,
        "detail": f"{title}.",
        "instance": route.path.replace(":uuid", ""),
        **{name: VALUES.get(f"{known.slug}.{name}", VALUES[name]) for name in known.certain_members},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", "traceparent", *names)}
