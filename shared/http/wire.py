"""Checks clients' input strictly, before any use case runs."""

import asyncio
import json
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import UUID

import orjson
from aiohttp import HttpVersion10, http_exceptions, web
from pydantic import BaseModel, ValidationError

from shared.contracts.types import ID_MAX, NoBody, no_control_characters
from shared.encoding import INT64_MAX
from shared.http.aiohttp_internals import ask_for_body
from shared.http.problems import (
    MALFORMED_ESCAPE,
    BodyTooLarge,
    MalformedBody,
    RequestTimeout,
    UnsupportedMediaType,
    ValidationFailed,
)
from shared.notation import parse_uuid

BODY_MAX_BYTES = 64 * 1024

W = TypeVar("W", bound=BaseModel)
B = TypeVar("B", bytes, bytearray)


async def read_body(
    request: web.Request, model: type[W], *, limit_bytes: int = BODY_MAX_BYTES, timeout_seconds: float = 10.0
) -> W:
    """Read and check a JSON body. Raises the refusal for 400, 408, 413, 415 or 422."""
    raw = await _read(request, limit_bytes, timeout_seconds)
    if model is NoBody and not raw:
        return model()
    _check_media_type(request)
    check_unique_members(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error, "") from None


def check_unique_members(raw: bytes) -> None:
    """Raise MalformedBody if an object in this JSON has two members with the same name.

    Parsers differ in which of the two they keep: a gateway could check one of them, and this service would act on the
    other. Text that is not JSON passes, since the parser refuses it.
    """
    # A fast proof for nearly every body: parsing drops a repeated member, and with it a colon. Colons in strings stay,
    # unless they were written as \u003a. Listing the members of every object takes three times as long.
    colons = raw.count(b":")
    if colons < 2:
        return
    try:
        if b"\\u003" not in raw and orjson.dumps(orjson.loads(raw)).count(b":") == colons:
            return
    except orjson.JSONDecodeError:
        pass  # such as an integer of 400 digits, which the schema refuses
    with suppress(ValueError, RecursionError):
        json.loads(raw, object_pairs_hook=_check_names, parse_int=str, parse_float=str)


def _check_names(members: list[tuple[str, Any]]) -> None:
    names = set[str]()
    for name, _ in members:
        if name in names:
            raise MalformedBody(f"An object has the member {name[:128]!r} twice.")
        names.add(name)


def read_query(request: web.Request, model: type[W]) -> W:
    """Check the query string. Raises ValidationFailed for unknown, repeated or wrong parameters."""
    if not _is_text(request.rel_url.raw_query_string):
        raise ValidationFailed([{"pointer": "/query", "message": "must be UTF-8, percent-encoded"}])
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise ValidationFailed([{"pointer": f"/query/{_escaped(name)}", "message": "is given twice"}])
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, "/query") from None


def path_id(request: web.Request, name: str, otherwise: type[Exception]) -> str:
    """Return an id from the path; raise `otherwise` for text that can't be an id."""
    value = request.match_info[name]
    try:
        no_control_characters(value)
    except ValueError:
        raise otherwise() from None
    if not 1 <= len(value) <= ID_MAX or not _is_text(request.rel_url.raw_path):
        raise otherwise()
    return value


def _is_text(encoded: str) -> bool:
    """Return whether percent-encoded text stands for UTF-8 throughout.

    The library passes what does not, such as `%ff` or `%zz`, as it is written, so that two paths would name one id.
    """
    if MALFORMED_ESCAPE.search(encoded):
        return False
    try:
        unquote_to_bytes(encoded).decode()
    except ValueError:
        return False
    return True


def path_uuid(request: web.Request, name: str, otherwise: type[Exception]) -> UUID:
    """Return a UUID from the path, or raise `otherwise`."""
    try:
        return parse_uuid(request.match_info[name])
    except ValueError:
        raise otherwise() from None


def encode_cursor(*parts: str | int) -> str:
    """Return an opaque cursor for the place after the given sort key."""
    return orjson.dumps(parts).hex()


def decode_cursor(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """Return the sort key of a cursor, checked to be of the given types. Raises ValidationFailed."""
    if cursor is None:
        return None
    try:
        parts = orjson.loads(bytes.fromhex(cursor))
        if not isinstance(parts, list) or len(parts) != len(kinds):
            raise ValueError
        return tuple(_checked(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except ValueError:
        raise ValidationFailed([{"pointer": "/query/cursor", "message": "is not one of our cursors"}]) from None


def _checked(part: Any, kind: type) -> Any:
    if kind is UUID and isinstance(part, str):
        return parse_uuid(part)
    if type(part) is not kind or (isinstance(part, int) and not 0 <= part <= INT64_MAX):
        raise ValueError
    return no_control_characters(part) if isinstance(part, str) else part


def expects_continue(request: web.Request) -> bool:
    """Return whether the client sends its body only after an interim answer 100 (RFC 9110, 10.1.1).

    In HTTP/1.0 nothing can be expected. Raises HTTPExpectationFailed for any other expectation.
    """
    expected = _members(request, "Expect")
    if request.version == HttpVersion10 or not expected:
        return False
    if expected != {"100-continue"}:
        raise web.HTTPExpectationFailed
    return True


async def _read(request: web.Request, limit_bytes: int, timeout_seconds: float) -> bytes:
    if (request.content_length or 0) > limit_bytes:
        raise BodyTooLarge(f"The body may have {limit_bytes} bytes at the most.")
    if not request.can_read_body:
        return b""
    body = bytearray()
    try:
        if request.content.is_eof():  # it came with its headers, as small bodies do
            return _limited(request.content.read_nowait(), limit_bytes)
        if expects_continue(request):
            _check_media_type(request)  # a body that will be refused is not asked for
            await ask_for_body(request)
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.content.iter_any():
                body += chunk
                _limited(body, limit_bytes)
    except TimeoutError:
        raise RequestTimeout from None
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError, ConnectionError):  # or the client is gone
        raise MalformedBody("The body does not arrive as its headers announce it.") from None
    return bytes(body)


def _limited(body: B, limit_bytes: int) -> B:
    if len(body) > limit_bytes:
        raise BodyTooLarge(f"The body may have {limit_bytes} bytes at the most.")
    return body


def _check_media_type(request: web.Request) -> None:
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() not in (
        "utf-8",
        "utf8",
    ):
        raise UnsupportedMediaType
    if "Content-Encoding" in request.headers and _members(request, "Content-Encoding") - {"identity"}:
        raise UnsupportedMediaType


def _members(request: web.Request, name: str) -> set[str]:
    """Return the members of a field that is a list, in lower case; it may be spread over several lines."""
    members = ",".join(request.headers.getall(name, ())).split(",")
    return {member.strip().lower() for member in members} - {""}


def _refusal(error: ValidationError, root: str) -> MalformedBody | ValidationFailed:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    if any(item["type"] == "json_invalid" for item in errors):
        return MalformedBody(errors[0]["msg"])
    return ValidationFailed(
        [
            {
                "pointer": root + "".join(f"/{_escaped(str(part))}" for part in item["loc"]),
                "message": item["msg"],
            }
            for item in errors[:20]  # a body of 64 KiB can have thousands of errors; twenty are enough
        ]
    )


def _escaped(part: str) -> str:
    text = part.encode("utf-8", "replace").decode()
    return text.replace("~", "~0").replace("/", "~1")
