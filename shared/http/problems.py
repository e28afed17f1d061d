"""Converts every failure to an HTTP response with an RFC 9457 problem; no other module chooses a status."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import web

from shared.refusals import Refusal, Unavailable

CONTENT_TYPE = "application/problem+json"
UNAVAILABLE = "This service can't serve the request right now"


class BadRequest(Refusal):
    """The request is not valid HTTP."""

    slug = "bad-request"


class MalformedBody(Refusal):
    """The body is not valid JSON."""

    slug = "malformed-body"


class ValidationFailed(Refusal):
    """The input does not fit its schema."""

    slug = "validation-failed"
    status = 422

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        """`errors`: a JSON pointer and a message each; pointers into the query begin with `/query`."""
        super().__init__(errors=list(errors))


class BodyTooLarge(Refusal):
    """The body is larger than this service accepts."""

    slug = "body-too-large"
    status = 413


class UnsupportedMediaType(Refusal):
    """The body must be application/json, unencoded."""

    slug = "unsupported-media-type"
    status = 415


class NotFound(Refusal):
    """There is nothing at this path."""

    slug = "not-found"
    status = 404


class RequestTimeout(Refusal):
    """The body did not arrive in time."""

    slug = "request-timeout"
    status = 408


class MethodNotAllowed(Refusal):
    """This path does not know this method."""

    slug = "method-not-allowed"
    status = 405


class ExpectationFailed(Refusal):
    """Only 100-continue can be expected."""

    slug = "expectation-failed"
    status = 417


class InternalError(Refusal):
    """Something went wrong here; it has been logged."""

    slug = "internal-error"
    status = 500


_IN_PATHS = "/%:@!$&'()*+,;=~"  # RFC 3986, section 3.3
MALFORMED_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")

# Slugs and titles for what the HTTP library itself refuses, and for bugs.
_BY_STATUS = {
    refusal.status: (refusal.slug, refusal.title())
    for refusal in (BadRequest, NotFound, MethodNotAllowed, BodyTooLarge, ExpectationFailed, InternalError)
}


def title(failure: type[Refusal | Unavailable]) -> str:
    """Return the title of the problem that stands for a failure."""
    return failure.title() if issubclass(failure, Refusal) else UNAVAILABLE


def instance(request: web.BaseRequest) -> str:
    """Return the path of a request, still encoded: a decoded id may be no valid URI reference."""
    # Escape the characters that a path must not contain, for clients that did not.
    return quote(MALFORMED_ESCAPE.sub("%25", request.rel_url.raw_path), safe=_IN_PATHS, errors="replace")


def encode(status: int, slug: str, title: str, detail: str, instance: str, **members: Any) -> bytes:
    """Return the bytes of a problem that no Refusal stands for."""
    body = {
        "type": f"/problems/{slug}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": instance,
    }
    return orjson.dumps({**body, **members})


def respond(error: Exception, path: str) -> web.Response | None:
    """Return the response for a failure, or None when it is a bug."""
    if isinstance(error, Refusal):
        body = error.problem()
        wait = error.retry_after_seconds
        headers = {**error.headers, **({} if wait is None else {"Retry-After": str(wait)})}
        return _response(orjson.dumps({**body, "instance": path}), error.status, headers)
    if isinstance(error, Unavailable):
        encoded = encode(503, error.slug, UNAVAILABLE, str(error), path)
        return _response(encoded, 503, {"Retry-After": str(error.retry_after_seconds)})
    if isinstance(error, web.HTTPException) and error.status >= 400:
        slug, title = _BY_STATUS.get(error.status, ("refused", error.reason))
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _response(encode(error.status, slug, title, title + ".", path), error.status, headers)
    return None


def bug(path: str) -> web.Response:
    """Return the response for a bug; the caller has logged it."""
    slug, title = _BY_STATUS[500]
    return _response(encode(500, slug, title, title + ".", path), 500)


def bad_http(status: int, path: str = "") -> web.Response:
    """Return the response for bytes that could not be parsed as HTTP; the connection is closed."""
    slug, title = _BY_STATUS.get(status, _BY_STATUS[400])
    response = _response(encode(status, slug, title, title + ".", path), status)
    response.force_close()
    return response


def _response(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type=CONTENT_TYPE)
