"""A slow or silent client is cut off, so that no client can keep connections for ever."""

import asyncio
import contextlib
import time

import pytest

from tests.infrastructure.raw_http import connected, read_answer
from tests.infrastructure.stack import CLIENT_TIMEOUT_SECONDS, SERVICES, Stack

PACE_SECONDS = 0.2  # between the bytes of a slow client
# Headers and idle connections have twice the time of a body; the rest allows for a busy machine.
CUT_OFF_SECONDS = CLIENT_TIMEOUT_SECONDS * 2 + 5

SILENCES = {
    "nothing": b"",
    "half a header": b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow",
    "a request and then nothing": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
}
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODIES = {
    "order": b"/v1/orders",
    "product": b"/v1/products",
    "coupon": b"/v1/coupons",
    "balance": b"/v1/accounts/ann/charges",
}


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte at a time until the other side closes."""
    with contextlib.suppress(OSError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(PACE_SECONDS)


async def ends(reader: asyncio.StreamReader) -> bytes:
    """Return what arrives until the other side closes. Raises TimeoutError if it doesn't in time."""
    async with asyncio.timeout(CUT_OFF_SECONDS):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read(-1)
    return b""


async def test_a_silent_client_is_cut_off(stack: Stack) -> None:
    async def fall_silent(service: str, data: bytes) -> bytes:
        async with connected(stack.url(service)) as (reader, writer):
            writer.write(data)
            return await ends(reader)

    ways = [(service, name) for service in SERVICES for name in SILENCES]
    answers = await asyncio.gather(*(fall_silent(service, SILENCES[name]) for service, name in ways))
    for (service, name), answer in zip(ways, answers, strict=True):
        assert (b" 200 " in answer) == (name == "a request and then nothing"), (service, name, answer)


async def test_headers_that_drip_are_cut_off(stack: Stack) -> None:
    async def drip_headers(service: str) -> None:
        async with connected(stack.url(service)) as (reader, writer):
            dripping = asyncio.create_task(drip(writer, b"GET /livez HTTP/1.1\r\nX-Slow: " + b"a" * 1000))
            try:
                assert await ends(reader) == b""
            finally:
                dripping.cancel()

    await asyncio.gather(*(drip_headers(service) for service in SERVICES))


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"])
async def test_a_body_that_stalls_or_drips_is_answered_408_and_cut_off(stack: Stack, framing: bytes) -> None:
    async def dawdle(service: str, path: bytes, body: bytes) -> None:
        async with connected(stack.url(service)) as (reader, writer):
            writer.write(POST % path + framing)
            dripping = asyncio.create_task(drip(writer, body))
            try:
                answer = await read_answer(reader)
                assert (answer.status, answer.problem["type"]) == (408, "/problems/request-timeout"), service
                assert answer.headers["connection"] == "close"
                await ends(reader)
            finally:
                dripping.cancel()

    began = time.monotonic()
    await asyncio.gather(
        *(dawdle(service, path, body) for service, path in BODIES.items() for body in (b"", b'{"' + b"a" * 1000))
    )
    assert time.monotonic() - began >= CLIENT_TIMEOUT_SECONDS


async def test_a_client_that_does_not_read_is_cut_off(stack: Stack) -> None:
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connected(stack.url("order")) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            async with asyncio.timeout(CUT_OFF_SECONDS * 3):
                while not writer.transport.is_closing():
                    writer.write(asked * 100)
                    await asyncio.sleep(PACE_SECONDS)
        assert writer.transport.is_closing()
