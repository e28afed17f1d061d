"""Parses the `Idempotency-Key` header, in the same way for every call."""

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from shared.contracts.types import no_control_characters
from shared.http.problems import ValidationFailed
from shared.refusals import Refusal

HEADER = "Idempotency-Key"
KEY_MAX = 255
# For the OpenAPI document: Route(headers=KEY_DESCRIPTION). Text in UTF-8 is accepted too: a header has no charset.
KEY_DESCRIPTION: Mapping[str, Mapping[str, Any]] = {
    HEADER: {
        "description": f"Optional, 1..{KEY_MAX} characters: the same key and body have one effect and one answer.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": 2 * KEY_MAX + 2,  # in quotes, every character may be escaped
            "pattern": rf'^([!#-~][ -~]{{0,{KEY_MAX - 1}}}|"([ !#-\[\]-~]|\\["\\]){{1,{KEY_MAX}}}")$',
        },
    }
}

# A structured-field string (RFC 9651): only quotes and backslashes are escaped.
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


class IdempotencyKeyReused(Refusal):
    """This idempotency key was used for a different request."""

    slug = "idempotency-key-reused"
    status = 422


class IdempotencyInProgress(Refusal):
    """The request with this idempotency key is still being worked on."""

    slug = "idempotency-in-progress"
    status = 409
    retry_after_seconds = 1


def parse_key(request: web.Request) -> str | None:
    """Return the request's idempotency key, or None when it has none.

    `abc` and `"abc"` are the same key. Raises ValidationFailed when it is given twice, is empty, has more than
    255 characters, control characters or bytes that aren't UTF-8, or begins with a quote that nothing ends.
    """
    values = request.headers.getall(HEADER, [])
    if not values:
        return None
    if len(values) > 1:
        raise _malformed("is given twice")
    key = values[0].strip()
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        if quoted is None:
            raise _malformed("begins with a quote but isn't a quoted string")
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if not 1 <= len(key) <= KEY_MAX:
        raise _malformed(f"must have 1 to {KEY_MAX} characters")
    try:
        return no_control_characters(key)
    except ValueError as error:
        raise _malformed(str(error)) from None


def _malformed(message: str) -> ValidationFailed:
    return ValidationFailed([{"pointer": f"/headers/{HEADER}", "message": message}])
