"""The requirements of RFC 9110 and RFC 9112 for a server, on raw connections."""

import asyncio
from collections.abc import Iterator
from http import HTTPStatus

import pytest
import uvloop

from shared.http.docs_page import FILES_PATH
from tests.infrastructure.raw_http import RawAnswer, connected, converse, read_answer
from tests.integration.http.messages import CONTINUE, HALF_CLOSED, LENGTH, MESSAGES, THING, get, post
from tests.integration.http.serving import LoopFactory, Served, serving

PAGES = [b"/docs", f"{FILES_PATH}/swagger-ui.css".encode(), b"/problems", b"/problems/unavailable"]


@pytest.fixture(scope="module", params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Run the server on production's event loop, and on asyncio's."""
    make_loop: LoopFactory = request.param
    with serving(make_loop) as served:
        yield served
        assert served.bugs() == []


def check(answer: RawAnswer) -> None:
    """Check that an error has a problem, and that a success has none."""
    if answer.status >= HTTPStatus.BAD_REQUEST:
        assert answer.problem["type"].startswith("/problems/")
    elif answer.status != HTTPStatus.CONTINUE:
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_message_is_answered_as_the_rfcs_have_it(served: Served, name: str) -> None:
    data, statuses = MESSAGES[name]
    answers, rest = await converse(served.url, data, len(statuses))
    assert [answer.status for answer in answers] == statuses
    for answer in answers:
        check(answer)
    if statuses == [100]:  # the server waited for the body, which never came
        assert b" 400 " in rest
    else:
        assert rest == b""


async def test_an_answer_names_the_version_that_the_server_speaks(served: Served) -> None:
    for version in (b"HTTP/0.9", b"HTTP/2.0"):
        async with connected(served.url) as (reader, writer):
            writer.write(get(version=version))
            assert (await reader.readline()).startswith(b"HTTP/1.")


async def test_the_body_is_read_after_the_interim_answer(served: Served) -> None:
    async with connected(served.url) as (reader, writer):
        for _ in range(2):  # the connection stays
            writer.write(post(CONTINUE + LENGTH, b""))
            assert (await reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(THING)
            assert (await read_answer(reader)).status == 201


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        # The next bytes could be the body that was not asked for, or a request.
        (CONTINUE + LENGTH, b"/v1/things/crowd", 503),
        (b"Content-Length: 70000\r\n", b"/v1/things", 413),
    ],
    ids=["not asked for", "too large"],
)
async def test_a_body_that_is_not_read_ends_its_connection(
    served: Served, headers: bytes, path: bytes, status: int
) -> None:
    async with connected(served.url) as (reader, writer):
        writer.write(post(headers, b"", path=path))
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["connection"]) == (status, "close")


@pytest.mark.parametrize(
    ("headers", "detail"),
    [(LENGTH, "No room."), (CONTINUE + LENGTH, "No room, says the handler.")],
    ids=["in one piece", "in two"],
)
async def test_request_in_one_piece_is_refused_before_its_handler(served: Served, headers: bytes, detail: str) -> None:
    [answer], _ = await converse(served.url, post(headers, path=b"/v1/things/crowd"), 1)
    assert (answer.status, answer.problem["detail"]) == (503, detail)


@pytest.mark.parametrize("path", [b"/v1/things", b"/v1/things/cup", b"/livez", b"/readyz", b"/openapi.json", *PAGES])
async def test_head_is_answered_as_get_without_its_body(served: Served, path: bytes) -> None:
    await same_but_for_the_body(served, path)


@pytest.mark.parametrize("path", [b"/nowhere", b"/v1/things?limit=0", b"/v1/things/" + b"x" * 200])
async def test_head_is_refused_as_get_is(served: Served, path: bytes) -> None:
    await same_but_for_the_body(served, path)


async def same_but_for_the_body(served: Served, path: bytes) -> None:
    """HEAD gets the status and fields of GET, without a body."""
    own = ("date", "x-request-id", "traceparent")
    async with connected(served.url) as (reader, writer):
        writer.write(get(path))
        whole = await read_answer(reader)
        writer.write(get(path, method=b"HEAD") + get(b"/livez"))
        head = await read_answer(reader, to_head=True)
        assert head.status == whole.status
        assert [item for item in head.headers.items() if item[0] not in own] == [
            item for item in whole.headers.items() if item[0] not in own
        ]
        assert int(head.headers["content-length"]) == len(whole.body)
        assert (await read_answer(reader)).body == b'{"status":"alive"}'


async def test_wrong_method_gets_the_allowed_methods_with_head(served: Served) -> None:
    for path, allowed in {
        b"/v1/things": {"GET", "HEAD", "POST"},
        b"/v1/things/cup": {"GET", "HEAD"},
        b"/v1/things/cup/act": {"POST"},
        b"/v1/things/crowd": {"POST"},
        b"/livez": {"GET", "HEAD"},
    }.items():
        [answer], _ = await converse(served.url, get(path, method=b"DELETE"), 1)
        assert set(answer.headers["allow"].split(",")) == allowed
    for path in (b"/v1/things/cup/act", b"/v1/things/crowd"):
        [answer], _ = await converse(served.url, get(path, method=b"GET"), 1)
        assert answer.status == 405


@pytest.mark.parametrize(
    ("headers", "version", "kept"),
    [
        (b"", b"HTTP/1.1", True),
        (b"Connection: close\r\n", b"HTTP/1.1", False),
        (b"Connection: TE, Close\r\n", b"HTTP/1.1", False),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"HTTP/1.1", False),  # what follows it may be lost
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"HTTP/1.1", False),
        (b"", b"HTTP/1.0", False),
        (b"Connection: Keep-Alive\r\n", b"HTTP/1.0", True),
    ],
)
async def test_a_connection_is_kept_as_its_client_asks(
    served: Served, headers: bytes, version: bytes, kept: bool
) -> None:
    async with connected(served.url) as (reader, writer):
        writer.write(get(headers=headers, version=version))
        answer = await read_answer(reader)
        if kept:
            assert answer.headers.get("connection", "keep-alive") == "keep-alive"
            writer.write(get())
            assert (await read_answer(reader)).status == 200
        else:
            assert version == b"HTTP/1.0" or answer.headers["connection"] == "close"
            assert await reader.read(-1) == b""


async def test_the_body_of_a_declined_upgrade_is_awaited(served: Served) -> None:
    async with connected(served.url) as (reader, writer):
        writer.write(post(LENGTH + b"Connection: Upgrade\r\nUpgrade: h2c\r\n", THING[:3]))
        await converse(served.url, get(), 1)  # the server has begun to handle the request by now
        writer.write(THING[3:])
        assert (await read_answer(reader)).status == 201


@pytest.mark.parametrize("name", HALF_CLOSED)
async def test_client_that_closed_its_sending_side_gets_all_answers(served: Served, name: str) -> None:
    data, statuses = HALF_CLOSED[name]
    answers, rest = await converse(served.url, data, len(statuses), half_close=True)
    assert [answer.status for answer in answers] == statuses
    assert rest == b""


async def test_client_that_closes_its_sending_side_while_waiting_gets_its_answer(served: Served) -> None:
    served.begun.clear()
    served.finish.clear()
    async with connected(served.url) as (reader, writer):
        writer.write(get(b"/v1/things/slow") + get(b"/livez"))
        await asyncio.to_thread(served.begun.wait)
        writer.write_eof()
        [answer], rest = await converse(served.url, get(b"/livez"), 1)  # the server has seen the end by now
        assert (answer.status, rest) == (200, b"")
        served.finish.set()
        assert (await read_answer(reader)).status == 200
        last = await read_answer(reader)
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert await reader.read(-1) == b""


async def test_a_client_that_is_gone_while_its_body_is_awaited_is_no_bug(served: Served) -> None:
    for data in (post(CONTINUE + LENGTH, b""), post(LENGTH, THING[:3]), get(b"/livez") * 200):
        async with connected(served.url) as (_, writer):
            writer.write(data)
            await writer.drain()
            writer.transport.abort()
    [answer], _ = await converse(served.url, get(), 1)
    assert answer.status == 200
