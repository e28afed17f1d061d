"""The gateway with services that answer, are silent, are down or break off: every error is a problem."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvloop

from shared.contracts.problem_types import CATALOGUE
from shared.http.pages import POLICY
from tests.infrastructure.gateway import NO_LIMITS, gateway
from tests.infrastructure.raw_http import RawAnswer, connected, converse, read_answer, send
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port
from tests.integration.http.messages import CHUNKED, CONTINUE, HALF_CLOSED, LENGTH, MESSAGES, THING, get, post
from tests.integration.http.serving import Served, serving
from tests.integration.http.upstream import upstream

# The statuses in which nginx differs from a service.
DIFFERENT: dict[str, list[int]] = {
    "an expectation with its body": [100, 201],  # nginx has not looked yet
    "an expectation said twice": [100, 400],
    "an unknown expectation beside a known one": [100, 400],
    "an expectation without a body": [100, 200],
    "an expectation of a probe": [100, 404],
    "an expectation with no JSON": [100],
    "an expectation at no path": [100, 404],
    "an expectation of a wrong method": [100, 404],
    "an expectation without room": [100],
    "an expectation without room, with its body": [100, 503],
    "an empty host": [400],
    "a host with a port in words": [200],  # nginx forwards the name alone
    "an asterisk": [400],
    "a tunnel": [400],
    "HTTP/1.2": [200],
    "lines that end in LF": [200],
    "a slash at the end of an entry": [404],
    "dots": [400],
    "one after the other": [200, 201, 404, 404],
    "more requests than are read ahead": [404] * 100,
    "several requests": [200, 201, 404],
    # nginx forwards no incomplete request, and the client has closed.
    **{name: [] for name, (_, statuses) in HALF_CLOSED.items() if statuses == [400] and name != "what isn't HTTP"},
}
HEADERLESS = {"HTTP/0.9", "HTTP/0.9 by name"}

# Further requests that must be refused.
REFUSED: dict[str, tuple[bytes, int]] = {
    "a path of NUL": (get(b"/v1/orders/%00"), 400),
    "a path of half a code": (get(b"/v1/orders/%"), 400),
    "a path of no code": (get(b"/v1/orders/%zz"), 400),
    "half a code alone": (get(b"/%"), 400),
    "a path above the root": (get(b"/../v1/orders"), 400),
    "a path above the root, encoded": (get(b"/%2e%2e/v1/orders"), 400),
    "a path with a space": (get(b"/v1/orders/a b"), 400),
    "a path with a control character": (get(b"/v1/orders/\x01"), 400),
    "a path of 9,000 characters": (get(b"/v1/orders/" + b"a" * 9_000), 400),
    "a path of 100,000 characters": (get(b"/v1/orders/" + b"a" * 100_000), 400),
    "a query of 9,000 characters": (get(b"/v1/orders?cursor=" + b"a" * 9_000), 400),
    "a header of 8,185 characters": (get(b"/v1/orders", b"X-Long: " + b"a" * 8_185 + b"\r\n"), 400),
    "a header of 9,000 characters": (get(b"/v1/orders", b"X-Long: " + b"a" * 9_000 + b"\r\n"), 400),
    "a cookie of 9,000 characters": (get(b"/v1/orders", b"Cookie: " + b"a" * 9_000 + b"\r\n"), 400),
    "a name of 9,000 characters": (get(b"/v1/orders", b"a" * 9_000 + b": 1\r\n"), 400),
    "200 headers": (get(b"/v1/orders", b"".join(b"X-%d: 1\r\n" % n for n in range(200))), 400),
    "40 KB of headers": (get(b"/v1/orders", b"".join(b"X-%d: %s\r\n" % (n, b"a" * 4_000) for n in range(10))), 400),
    "TRACE": (get(b"/v1/orders", method=b"TRACE"), 405),
    "TRACE nowhere": (get(b"/nowhere", method=b"TRACE"), 405),
    "CONNECT": (get(b"x:443", method=b"CONNECT", host=b"Host: x:443\r\n"), 400),
    "CONNECT to a path": (get(b"/v1/orders", method=b"CONNECT"), 405),
    "OPTIONS": (get(b"/v1/orders", method=b"OPTIONS"), 405),
    "PROPFIND": (get(b"/v1/orders", method=b"PROPFIND"), 405),
    "a method of 9,000 characters": (get(b"/v1/orders", method=b"A" * 9_000), 400),
    "a method with digits": (get(b"/v1/orders", method=b"M3THOD"), 400),
    "a body of 65 KiB": (post(b"Content-Length: 66560\r\n", b" " * 66_560, path=b"/v1/orders"), 413),
    "a body of 200 KiB": (post(b"Content-Length: 204800\r\n", b"", path=b"/v1/orders"), 413),
    "a body of 2^64 bytes": (post(b"Content-Length: 18446744073709551616\r\n", b"", path=b"/v1/orders"), 400),
    "chunks of 200 KiB": (post(CHUNKED, b"32000\r\n" + b" " * 0x32000, path=b"/v1/orders"), 413),
    "chunks of no size": (post(CHUNKED, b"zz\r\n{}\r\n0\r\n\r\n", path=b"/v1/orders"), 400),
    "chunks of negative size": (post(CHUNKED, b"-1\r\n{}\r\n0\r\n\r\n", path=b"/v1/orders"), 400),
    "chunks that end too late": (post(CHUNKED, b"1\r\n{}}}\r\n0\r\n\r\n", path=b"/v1/orders"), 400),
    "an expectation with a body of 200 KiB": (
        post(CONTINUE + b"Content-Length: 204800\r\n", b"", path=b"/v1/orders"),
        413,
    ),
    "chunks of no size, nowhere": (post(CHUNKED, b"zz\r\n", path=b"/nowhere"), 400),
    "chunks of no size, and an unknown expectation": (
        post(CHUNKED + b"Expect: patience\r\n", b"zz\r\n", path=b"/v1/orders"),
        400,
    ),
    "chunks of no size to TRACE": (get(b"/v1/orders", CHUNKED, method=b"TRACE") + b"zz\r\n", 400),
    "chunks of no size to a service that is gone": (post(CHUNKED, b"zz\r\n", path=b"/v1/products"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100 + b"\r\n\r\n", 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 400),
    "SMTP": (b"EHLO x\r\n\r\n", 400),
    "Redis": (b"*1\r\n$4\r\nPING\r\n\r\n", 400),
    "the PROXY protocol": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + get(b"/v1/orders"), 400),
    "bytes": (bytes(range(256)) + b"\r\n\r\n", 400),
    "nowhere": (get(b"/"), 404),
    "v1": (get(b"/v1"), 404),
    "v1 and a query": (post(path=b"/v1?a=b"), 404),
    "nothing of v1": (get(b"/v1/"), 404),
    "v1 of nobody": (get(b"/v1/nobody"), 404),
    "a page of nginx's own": (get(b"/index.html"), 404),
    "an error's own path": (get(b"/answers/unavailable"), 404),
    "a page of no problem": (get(b"/problems/nothing"), 404),
    "a page below a problem's": (get(b"/problems/unavailable/more"), 404),
    "a page beside the problems": (get(b"/problemsolver"), 404),
    "the problems by two slashes": (get(b"//problems"), 404),
    "metrics": (get(b"/metrics"), 404),
    "readiness": (get(b"/readyz"), 404),
    "the inside": (get(b"/internal/v1/books"), 404),
    "the inside by dots": (get(b"/v1/orders/../../internal/v1/books"), 400),
    "the inside by encoded dots": (get(b"/v1/orders/%2e%2e/%2e%2e/internal/v1/books"), 400),
    "the inside by encoded slashes": (get(b"/v1/orders/..%2f..%2finternal/v1/books"), 400),
    "the inside that looks like v1": (get(b"/internal/v1/outcomes/..%2f..%2f..%2fv1%2fproducts"), 400),
    "the inside by two slashes": (get(b"//internal/v1/books"), 404),
    "v1 by two slashes": (get(b"//v1/orders"), 404),
    "v1 by a code": (get(b"/v%31/orders"), 404),
    "v1 in capitals": (get(b"/V1/orders"), 404),
    "an entry that is none": (get(b"/v1/orders/" + b"x" * 200), 404),
    "a service that is gone": (get(b"/v1/products"), 503),
    "a service that is gone, and a body": (post(path=b"/v1/products"), 503),
    "a service that says nothing": (get(b"/v1/coupons"), 503),
    "a service that closes": (get(b"/v1/accounts/close"), 503),
    "a service that resets": (get(b"/v1/accounts/reset"), 503),
    "a service that stops in its headers": (get(b"/v1/accounts/headers"), 503),
    "a service that answers with too many headers": (get(b"/v1/accounts/many"), 503),
    "a service that can't": (get(b"/v1/orders/crowd", method=b"POST"), 503),
}


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway, and the service that it forwards /v1/orders to."""

    url: str
    orders: Served


@pytest.fixture(scope="module")
def before(reaper: Reaper) -> Iterator[Gateway]:
    """Run a gateway with four services: one answers, one is down, one is silent, and one breaks off."""
    with serving(uvloop.new_event_loop, "/v1/orders") as orders, upstream() as silent, upstream() as wild:
        services = {
            "order": orders.url,
            "product": f"http://127.0.0.1:{free_port()}",
            "coupon": silent,
            "balance": wild,
        }
        times = {
            "proxy_read_timeout 30s": "proxy_read_timeout 1s",
            "client_body_timeout 10s": "client_body_timeout 1s",
            "client_header_timeout 3s": "client_header_timeout 1s",
        }
        with gateway(services, reaper, NO_LIMITS | times) as running:
            yield Gateway(running.url, orders)
        assert orders.bugs() == []


def check(answer: RawAnswer) -> None:
    """Check that an error is a problem of a known type."""
    if answer.status >= 400:
        assert answer.problem["type"].startswith("/problems/")
        assert answer.problem["title"] != ""
        assert answer.status != 405 or answer.headers["allow"]
        assert answer.status != 503 or answer.headers["retry-after"] == "1"


def to_orders(data: bytes) -> bytes:
    """Return the message, addressed to the service behind the gateway."""
    return data.replace(b"/v1/things", b"/v1/orders")


@pytest.mark.parametrize("name", [name for name in MESSAGES if name not in HEADERLESS])
async def test_a_message_is_answered_as_the_rfcs_have_it(before: Gateway, name: str) -> None:
    data, statuses = MESSAGES[name]
    expected = DIFFERENT.get(name, statuses)
    answers, rest = await converse(before.url, to_orders(data), len(expected))
    assert [answer.status for answer in answers] == expected
    assert rest == b""
    for answer in answers:
        check(answer)


@pytest.mark.parametrize("name", sorted(HEADERLESS))
async def test_request_without_headers_gets_a_problem_body(before: Gateway, name: str) -> None:
    _, rest = await converse(before.url, to_orders(MESSAGES[name][0]), 0)
    assert b'"type":"/problems/bad-request"' in rest
    assert b"<html>" not in rest


@pytest.mark.parametrize("name", HALF_CLOSED)
async def test_client_that_closed_its_sending_side_gets_all_answers(before: Gateway, name: str) -> None:
    data, statuses = HALF_CLOSED[name]
    expected = DIFFERENT.get(name, statuses)
    answers, rest = await converse(before.url, to_orders(data), len(expected), half_close=True)
    assert [answer.status for answer in answers] == expected
    assert rest == b""


@pytest.mark.parametrize("path", ["/problems", *(one.path for one in CATALOGUE.values())])
async def test_type_of_a_problem_leads_to_its_page(before: Gateway, path: str) -> None:
    answer = await send(before.url, get(path.encode()))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == POLICY


@pytest.mark.parametrize("name", REFUSED)
async def test_rejected_client_that_closed_its_sending_side_gets_a_problem(before: Gateway, name: str) -> None:
    async with connected(before.url) as (reader, writer):
        writer.write(REFUSED[name][0])
        writer.write_eof()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):  # none for half of a body
            check(await read_answer(reader))


async def test_client_that_closes_its_sending_side_while_waiting_gets_its_answer(before: Gateway) -> None:
    before.orders.begun.clear()
    before.orders.finish.clear()
    async with connected(before.url) as (reader, writer):
        writer.write(get(b"/v1/orders/slow"))
        await asyncio.to_thread(before.orders.begun.wait)
        writer.write_eof()
        await converse(before.url, get(b"/nowhere"), 1)
        before.orders.finish.set()
        assert (await read_answer(reader)).status == 200


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_is_refused_with_a_problem(before: Gateway, name: str) -> None:
    data, status = REFUSED[name]
    answer = await send(before.url, data)
    assert answer.status == status
    check(answer)


@pytest.mark.parametrize("name", [name for name, (_, status) in REFUSED.items() if status != 503])
async def test_a_service_refuses_what_the_gateway_refuses(before: Gateway, name: str) -> None:
    """A service that gets a request directly answers with the same problem as the gateway."""
    data, status = REFUSED[name]
    answer = await send(before.orders.url, data)
    check(answer)
    # A service treats a path that was not normalised as an id, and checks first whether it knows the path.
    assert answer.status == status or (answer.status in (200, 400, 404) and status in (400, 404, 405))


async def test_a_slow_client_is_cut_off(before: Gateway) -> None:
    for data in (b"GET /v1/orders HT", get(b"/v1/orders")[:-2], to_orders(post(LENGTH, THING[:3]))):
        async with connected(before.url) as (reader, writer):
            writer.write(data)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read(-1) == b""
