"""Strict input: nothing is coerced, everything is bounded, and errors are named."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import StreamReader, http_exceptions, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.types import Id, Int64, NoBody, Page, Wire, no_control_characters
from shared.encoding import INT64_MAX
from shared.http import wire
from shared.http.problems import (
    BodyTooLarge,
    MalformedBody,
    NotFound,
    RequestTimeout,
    UnsupportedMediaType,
    ValidationFailed,
)
from shared.http.wire import (
    check_unique_members,
    decode_cursor,
    encode_cursor,
    path_id,
    path_uuid,
    read_body,
    read_query,
)
from shared.notation import Timestamp


class Thing(Wire):
    """A wire model with one field of each kind."""

    name: Id
    size: Int64 = 0
    at: Timestamp | None = None
    parts: tuple["Thing", ...] = ()


class Connected(BaseProtocol):
    """A connection on which nothing more arrives."""

    connected = True


def request(body: bytes | None, media_type: str = "application/json", **headers: str) -> web.Request:
    """Return a POST with a body, or one whose body never comes."""
    stream = StreamReader(Connected(asyncio.get_running_loop()), 2**20)
    if body is not None:
        stream.feed_data(body)
        stream.feed_eof()
    given = {"Content-Type": media_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return make_mocked_request("POST", "/", headers=given, payload=stream)


def ask(query: str) -> web.Request:
    return make_mocked_request("GET", f"/?{query}")


async def errors(body: bytes) -> list[tuple[str, str]]:
    with pytest.raises(ValidationFailed) as refused:
        await read_body(request(body), Thing)
    return [(error["pointer"], error["message"]) for error in refused.value.members["errors"]]


async def test_a_body_becomes_its_model() -> None:
    thing = await read_body(request(b'{"name": "a", "at": "2030-01-01T00:00:00Z"}'), Thing)
    assert (thing.name, thing.size, thing.at and thing.at.year) == ("a", 0, 2030)


@pytest.mark.parametrize(
    "size", ["1.0", "1.5", '"1"', "true", "null", "[]", str(2**63), str(-(2**63) - 1), "1e3", "9" * 400]
)
async def test_value_that_is_no_64_bit_integer_is_refused_not_coerced(size: str) -> None:
    ((pointer, _),) = await errors(b'{"name": "a", "size": %s}' % size.encode())
    assert pointer == "/size"


@pytest.mark.parametrize("size", [-(2**63), 0, INT64_MAX])
async def test_every_64_bit_integer_is_taken(size: int) -> None:
    assert (await read_body(request(b'{"name": "a", "size": %d}' % size), Thing)).size == size


@pytest.mark.parametrize("name", [b"", b"a\\u0000b", b"\\u001b[2J", b"\\u0085", b"x" * 129])
async def test_a_text_that_breaks_databases_logs_or_bounds_is_refused(name: bytes) -> None:
    ((pointer, _),) = await errors(b'{"name": "%s"}' % name)
    assert pointer == "/name"


async def test_every_error_is_named_by_its_json_pointer() -> None:
    found = await errors(b'{"name": "a", "parts": [{"name": "b"}, {"size": "x"}], "a/b~c": 1}')
    assert {pointer for pointer, _ in found} == {"/parts/1/name", "/parts/1/size", "/a~1b~0c"}


async def test_no_more_than_twenty_errors_are_listed() -> None:
    assert len(await errors(b'{"name": "a", %s}' % b",".join(b'"x%d": 1' % n for n in range(500)))) == 20


@pytest.mark.parametrize("body", [b"", b"{", b"{}{}", b"\xff", b'{"name": "\xff"}', b'{"name": "\\ud800"}'])
async def test_body_that_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        await read_body(request(body), Thing)


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "name": "a"}',
        b'{"name": "a", "size": 1, "name": 1}',  # one of the two breaks the schema as well
        b'{"name": "a", "parts": [{"name": "b"}, {"name": "c", "size": 1, "size": 2}]}',
        b'{"name": "a", "parts": [{"name": "b", "parts": [{"name": "c", "name": "d"}]}]}',
        b'{"name": "a", "\\u006eame": "b"}',
        b'{"\\u006e\\u0061me": "a", "\\u006Eame": "b"}',
        # As many colons when written anew.
        pytest.param(b'{"name": "\\u003a", "name": "\\u003A"}', id="escaped colons"),
        b'{"name": ":", "name": "::"}',
        b'{"unknown": 1, "unknown": 1}',
        b'{"name": "a", "unknown": {"": 1, "": 2}}',
        b'{"name": "a", "size": %s, "size": 1}' % (b"9" * 400),
        b'{"name": "a", "size": NaN, "size": 1}',
        b'{"name" : "a" , "at"\n:\tnull, "at": null}',
    ],
)
async def test_a_member_given_twice_is_malformed_at_any_depth_in_any_spelling(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        await read_body(request(body), Thing)


async def test_body_that_is_nested_too_deeply_is_malformed() -> None:
    with pytest.raises(MalformedBody):
        await read_body(request(b'{"name": "a", "parts": %s%s}' % (b"[" * 20_000, b"]" * 20_000)), Thing)


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": ":\\u003a: \\"name\\": "}',
        b'{"name": "a", "parts": [{"name": "name"}, {"name": "size"}, {"size": 1, "name": "a"}]}',
        '{"name": "\u00e9 e\u0301 \U0001f642"}'.encode(),
    ],
)
async def test_equal_names_in_different_objects_and_in_texts_are_no_repetition(body: bytes) -> None:
    assert (await read_body(request(body), Thing)).name


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), INT64_MAX) | st.text('a:\\"{}\u003ae\u0301', max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(st.sampled_from("ab:"), inner), max_size=3).map(tuple)
    ),
    max_leaves=8,
)


def written(value: Any, escape: Callable[[str], str]) -> str:
    """Return JSON of a value in which objects are tuples of pairs, so that a member can be repeated."""
    if isinstance(value, tuple):
        members = (f"{escape(name)}:{written(inner, escape)}" for name, inner in value)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(inner, escape) for inner in value) + "]"
    return escape(value) if isinstance(value, str) else json.dumps(value)


def repeats(value: Any) -> bool:
    if isinstance(value, tuple):
        return len({name for name, _ in value}) < len(value) or any(repeats(inner) for _, inner in value)
    return isinstance(value, list) and any(map(repeats, value))


def escaped_throughout(text: str) -> str:
    return '"' + "".join(f"\\u{ord(character):04x}" for character in text) + '"'


@given(_JSON, st.sampled_from([json.dumps, escaped_throughout]))
def test_a_repeated_member_is_found_exactly_when_there_is_one(value: Any, escape: Callable[[str], str]) -> None:
    raw = written(value, escape).encode()
    try:
        check_unique_members(raw)
    except MalformedBody:
        assert repeats(value)
    else:
        assert not repeats(value)


@pytest.mark.parametrize(
    ("media_type", "headers"),
    [
        ("text/plain", {}),
        ("application/problem+json", {}),
        ("application/json; charset=latin-1", {}),
        ("application/json", {"Content_Encoding": "gzip"}),
    ],
)
async def test_another_media_type_is_refused(media_type: str, headers: dict[str, str]) -> None:
    with pytest.raises(UnsupportedMediaType):
        await read_body(request(b'{"name": "a"}', media_type, **headers), Thing)


@pytest.mark.parametrize("media_type", ["application/json; charset=UTF-8", "Application/JSON"])
async def test_ways_to_write_the_media_type_are_taken(media_type: str) -> None:
    assert (await read_body(request(b'{"name": "a"}', media_type), Thing)).name == "a"


async def test_a_body_above_the_limit_is_refused_announced_or_not() -> None:
    for headers in ({}, {"Content_Length": "101"}):
        with pytest.raises(BodyTooLarge):
            await read_body(request(b" " * 101, **headers), Thing, limit_bytes=100)


@pytest.mark.parametrize("headers", [{}, {"Content_Length": "12"}], ids=["unannounced", "announced"])
async def test_body_of_just_the_limit_is_taken(headers: dict[str, str]) -> None:
    assert (await read_body(request(b'{"name":"a"}', **headers), Thing, limit_bytes=12)).name == "a"


async def test_body_announced_too_large_is_refused_before_it_comes() -> None:
    with pytest.raises(BodyTooLarge):
        await read_body(request(None, Content_Length="101"), Thing, limit_bytes=100, timeout_seconds=0.1)


async def test_body_that_grows_too_large_is_refused_before_its_end() -> None:
    asking = request(None)
    asking.content.feed_data(b" " * 101)
    with pytest.raises(BodyTooLarge):
        await read_body(asking, Thing, limit_bytes=100, timeout_seconds=0.1)


@pytest.mark.parametrize(
    "failure",
    [web.RequestPayloadError(), http_exceptions.TransferEncodingError("400, bad chunk"), ConnectionResetError()],
)
async def test_body_that_breaks_off_is_malformed(failure: Exception) -> None:
    asking = request(None)
    asking.content.set_exception(failure)
    with pytest.raises(MalformedBody):
        await read_body(asking, Thing, timeout_seconds=0.1)


async def test_a_body_that_does_not_come_times_out() -> None:
    with pytest.raises(RequestTimeout):
        await read_body(request(None), Thing, timeout_seconds=0.01)


async def test_call_without_a_body_accepts_no_body_or_an_empty_object() -> None:
    await read_body(request(b""), NoBody)
    await read_body(request(b"{}"), NoBody)
    with pytest.raises(ValidationFailed):
        await read_body(request(b'{"a": 1}'), NoBody)


def test_a_limit_has_a_default_and_is_lowered_to_the_maximum() -> None:
    assert [read_query(ask(query), Page).limit for query in ("", "limit=1", "limit=100", "limit=101")] == [
        20,
        1,
        100,
        100,
    ]


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=a", "limit=1.5", "limit=", "x=1", "limit=1&limit=1"])
def test_a_query_that_breaks_its_model_is_refused_and_its_parameter_named(query: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        read_query(ask(query), Page)
    assert refused.value.members["errors"][0]["pointer"] == f"/query/{query.partition('=')[0]}"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])), st.integers(0, INT64_MAX), st.uuids())
def test_cursor_decodes_to_its_values(text: str, number: int, uuid: UUID) -> None:
    assert decode_cursor(encode_cursor(text, number, str(uuid)), str, int, UUID) == (text, number, uuid)


@given(st.text() | st.binary().map(bytes.hex))
def test_no_text_of_a_client_breaks_reading_a_cursor(cursor: str) -> None:
    try:
        (number,) = decode_cursor(cursor, int) or (0,)
    except ValidationFailed:
        return
    assert 0 <= number <= INT64_MAX


@pytest.mark.parametrize("parts", [(), ("a",), (1, 2), (-1,), (2**63,)])
def test_a_cursor_of_another_list_is_refused(parts: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationFailed):
        decode_cursor(encode_cursor(*parts), int)


def test_no_cursor_is_the_place_before_everything() -> None:
    assert decode_cursor(None, int) is None


@pytest.mark.parametrize("made_of", ['{"a": 1}', '"a"', "1", '["a", "b"]'])
def test_cursor_that_is_no_list_of_the_right_length_is_refused(made_of: str) -> None:
    with pytest.raises(ValidationFailed):
        decode_cursor(made_of.encode().hex(), str)


@pytest.mark.parametrize("text", ["a\0", "a\n", "\ud800"])
def test_cursor_with_text_that_can_not_be_stored_is_refused(text: str) -> None:
    cursor = json.dumps([text]).encode().hex()
    with pytest.raises(ValidationFailed):
        decode_cursor(cursor, str)


@pytest.mark.parametrize("text", ["a\0b", "\x1b[2J", "a\ud800"])
def test_text_with_control_characters_or_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        no_control_characters(text)


@pytest.mark.parametrize("name", ["", "a\0", "a\n", "\ud800", "x" * 129])
def test_impossible_id_is_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        path_id(make_mocked_request("GET", "/", match_info={"id": name}), "id", NotFound)


def test_an_id_in_the_path_is_taken() -> None:
    uuid = uuid4()
    assert path_id(make_mocked_request("GET", "/", match_info={"id": "ü/1"}), "id", NotFound) == "ü/1"
    assert path_uuid(make_mocked_request("GET", "/", match_info={"id": str(uuid)}), "id", NotFound) == uuid
    with pytest.raises(NotFound):
        path_uuid(make_mocked_request("GET", "/", match_info={"id": "1"}), "id", NotFound)


@pytest.mark.parametrize("length", [1, 128])
def test_shortest_and_longest_id_in_the_path_are_taken(length: int) -> None:
    value = "x" * length
    assert path_id(make_mocked_request("GET", "/", match_info={"id": value}), "id", NotFound) == value


@pytest.mark.parametrize("encoded", ["%ff", "a%zz", "%"])
def test_percent_encoding_that_is_no_utf_8_is_no_text(encoded: str) -> None:
    assert not wire._is_text(encoded)


def test_query_and_path_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValidationFailed):
        read_query(ask("cursor=%ff"), Page)
    with pytest.raises(NotFound):
        path_id(make_mocked_request("GET", "/%ff", match_info={"id": "%ff"}), "id", NotFound)
