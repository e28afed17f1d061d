"""Malformed HTTP: every service answers with a 4xx problem or closes the connection, and continues to serve."""

import asyncio
import json
import signal

import pytest

from tests.infrastructure.gateway import SERVICES as BEHIND_GATEWAY
from tests.infrastructure.raw_http import connected, read_answer, send
from tests.infrastructure.shopping import a_product, a_user, an_order
from tests.infrastructure.stack import SERVICES, Shop, Stack

HOST = b"Host: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
TYPED = b"POST {path} HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n"
JSON = b"Content-Type: application/json\r\n"
LISTS = {
    "order": b"/v1/orders",
    "product": b"/v1/products",
    "coupon": b"/v1/coupons",
    "balance": b"/v1/accounts/a/charges",
    "relay": b"/livez",
}


def get(path: bytes, headers: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n"


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST {path} HTTP/1.1\r\n" + HOST + JSON + headers + b"\r\n" + body


# The bytes that are sent, and the allowed statuses.
ATTACKS: dict[str, tuple[bytes, set[int]]] = {
    "a path of NUL": (get(b"/%00"), {404}),
    "a path of ff": (get(b"/%ff"), {404}),
    "a path of half a code": (get(b"/%c3%28/%"), {400, 404}),
    "an escaped slash": (get(b"/%2f%2e%2e%2fetc%2fpasswd"), {404}),
    "dots": (get(b"/../../../etc/passwd"), {404}),
    "dots below": (get(b"/v1/../v1/../nowhere"), {404}),
    "double slashes": (get(b"//evil.example//"), {404}),
    "bytes that are no text": (get(b"/v1/\xff\xfe"), {400, 404}),
    "a lone surrogate": (get(b"/v1/%ed%a0%80"), {404}),
    "a fragment": (get(b"/v1/nowhere#/livez"), {400, 404}),
    "a template": (get(b"/v1/{order_id}/${7*7}"), {400, 404}),
    "an absolute address": (get(b"http://evil.example/nowhere"), {404}),
    "an address of no one": (get(b"http://[::1"), {400}),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404, 405}),
    "a tunnel": (b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404, 405}),
    "a path of 100,000 characters": (get(b"/" + b"a" * 100_000), {400, 414}),
    "a query of 100,000 characters": (get(b"/livez?" + b"a" * 100_000), {400, 414}),
    "a header of 100,000 characters": (get(b"/livez", b"X-Long: " + b"a" * 100_000 + b"\r\n"), {400, 431}),
    "a thousand headers": (get(b"/livez", b"".join(b"X-%d: 1\r\n" % n for n in range(1000))), {400, 431}),
    "a header with NUL": (get(b"/livez", b"X-Nul: a\0b\r\n"), {400}),
    "a header without a colon": (get(b"/livez", b"nonsense\r\n"), {400}),
    "a space before the colon": (get(b"/livez", b"X-Space : 1\r\n"), {400}),
    "an unknown method": (b"BREW {path} HTTP/1.1\r\n" + HOST + b"\r\n", {400, 405}),
    "a method in lower case": (b"get /livez HTTP/1.1\r\n" + HOST + b"\r\n", {400, 405}),
    "a method that is none": (b"G@T /livez HTTP/1.1\r\n" + HOST + b"\r\n", {400}),
    "an unknown version": (b"GET /livez HTTP/9.9\r\n" + HOST + b"\r\n", {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100 + b"\r\n\r\n", {400}),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", {400}),
    "nonsense": (b"\0\0\0\0\r\n\r\n", {400}),
    "two lengths": (post(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"), {400}),
    "a negative length": (post(b"Content-Length: -1\r\n"), {400}),
    "a length in words": (post(b"Content-Length: many\r\n"), {400}),
    "a length that overflows": (post(b"Content-Length: 99999999999999999999\r\n"), {400, 413}),
    "a length beyond the limit": (post(b"Content-Length: 65537\r\n"), {404, 405, 413}),
    "a length and chunks": (post(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), {400}),
    "chunks of no size": (post(CHUNKED, b"zz\r\n{}\r\n0\r\n\r\n"), {400, 405}),
    "a chunk of negative size": (post(CHUNKED, b"-2\r\n{}\r\n0\r\n\r\n"), {400, 405}),
    "a chunk that is longer than it says": (
        post(CHUNKED, b"1\r\n{}}}}}\r\n0\r\n\r\n"),
        {400, 405},
    ),
    "an unknown coding": (post(b"Transfer-Encoding: gzip\r\n"), {400, 405}),
    "an expectation that is none": (post(b"Expect: 200-maybe\r\nContent-Length: 2\r\n", b"{}"), {405, 417}),
    "a type that is none": (TYPED + b"Content-Type: ;;=\r\n\r\n{}", {405, 415}),
    "a charset that is none": (TYPED + b"Content-Type: application/json; charset=\xff\r\n\r\n{}", {405, 415}),
    "a key with a control character": (TYPED + JSON + b"Idempotency-Key: a\x7fb\r\n\r\n{}", {400, 405, 422}),
    "a key that is no text": (TYPED + JSON + b"Idempotency-Key: \xff\r\n\r\n{}", {405, 422}),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_malformed_http_gets_4xx(stack: Stack, name: str) -> None:
    data, statuses = ATTACKS[name]
    for service in SERVICES:
        answer = await send(stack.url(service), data.replace(b"{path}", LISTS[service]))
        assert answer.status in statuses, (service, answer)
        assert answer.problem["type"].startswith("/problems/"), (service, answer)


@pytest.mark.parametrize("name", ATTACKS)
async def test_malformed_http_gets_4xx_at_the_gateway(gateway_url: str, name: str) -> None:
    data, _ = ATTACKS[name]
    for path in (LISTS[service] for service in BEHIND_GATEWAY):
        answer = await send(gateway_url, data.replace(b"{path}", path))
        assert 400 <= answer.status < 500, (path, answer)
        assert answer.problem["type"].startswith("/problems/"), (path, answer)


async def test_an_order_is_placed_through_the_gateway(gateway_url: str, stack: Stack, shop: Shop) -> None:
    user, product = await a_user(shop), await a_product(shop)
    body = json.dumps(an_order(user, product)).encode()
    data = post(b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(body)).replace(b"{path}", b"/v1/orders")
    async with connected(gateway_url) as (reader, writer):
        writer.write(data)
        assert (await read_answer(reader)).status == 100
        writer.write(body)
        writer.write_eof()
        placed = await read_answer(reader)
    assert (placed.status, json.loads(placed.body)["status"]) == (201, "PAID")
    for url in (gateway_url, stack.url("order")):
        assert (await send(url, get(placed.headers["location"].encode()))).body == placed.body


async def test_chunks_beyond_the_limit_are_not_read(stack: Stack) -> None:
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    answer = await send(stack.url("order"), post(CHUNKED, chunk * 17).replace(b"{path}", b"/v1/orders"))
    assert (answer.status, answer.problem["type"]) == (413, "/problems/body-too-large")


async def test_expect_100_continue_gets_100(stack: Stack) -> None:
    async with connected(stack.url("order")) as (reader, writer):
        head = post(b"Expect: 100-continue\r\nContent-Length: 2\r\n").replace(b"{path}", b"/v1/orders")
        writer.write(head)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"{}")
        assert (await read_answer(reader)).status == 422


async def test_a_client_that_closes_its_sending_side_gets_its_answer(stack: Stack, shop: Shop) -> None:
    user, product = await a_user(shop), await a_product(shop)
    body = json.dumps(an_order(user, product)).encode()
    data = post(b"Content-Length: %d\r\n" % len(body), body).replace(b"{path}", b"/v1/orders")
    async with connected(stack.url("order")) as (reader, writer):
        stack.signal("order", signal.SIGSTOP)  # so that it finds the request and its end together
        try:
            writer.write(data)
            writer.write_eof()
        finally:
            stack.signal("order", signal.SIGCONT)
        answer = await read_answer(reader)
        assert (answer.status, json.loads(answer.body)["status"]) == (201, "PAID")
        assert answer.headers["connection"] == "close"
        assert await reader.read(-1) == b""


async def test_a_gzip_body_is_refused_and_not_unpacked(stack: Stack) -> None:
    body = b"\x1f\x8b\x08" + b"\0" * 50
    head = post(b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(body)).replace(b"{path}", b"/v1/orders")
    assert (await send(stack.url("order"), head + body)).status == 415


async def test_many_requests_in_one_packet_are_answered_in_turn(stack: Stack) -> None:
    async with connected(stack.url("order")) as (reader, writer):
        writer.write(get(b"/livez") * 20 + get(b"/nowhere") + get(b"/livez"))
        statuses = [(await read_answer(reader)).status for _ in range(22)]
    assert statuses == [200] * 20 + [404, 200]


async def test_client_that_closes_in_the_middle_disturbs_no_other_client(stack: Stack) -> None:
    for data in (b"POST /v1/orders HTTP/1.1\r\nHost", post(b"Content-Length: 50\r\n", b'{"user'), get(b"/v1/orders")):
        async with connected(stack.url("order")) as (_, writer):
            writer.write(data.replace(b"{path}", b"/v1/orders"))
            await writer.drain()
    assert (await send(stack.url("order"), get(b"/livez"))).status == 200


async def test_no_malformed_request_was_logged_as_a_bug(stack: Stack) -> None:
    await asyncio.gather(*(send(stack.url(service), get(b"/livez")) for service in SERVICES))
    for service in SERVICES:
        lines = stack.log(service).splitlines()
        assert [line for line in lines if '"event":"request.failed"' in line or "Traceback" in line] == [], service
