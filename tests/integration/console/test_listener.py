"""Clients that send nothing, or too slowly, hold no connection of the console; and there are not too many."""

import asyncio
import ssl
from pathlib import Path

import pytest

from shared.http import aiohttp_internals, connection
from tests.infrastructure.authority import Authority
from tests.integration.console.serving import Browser, console

SECONDS = 10.0


async def opened(browser: Browser, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and send these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", browser.parts.settings.port)
    writer.write(sent)
    await writer.drain()
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the console closes the connection."""
    async with asyncio.timeout(SECONDS):
        return await reader.read()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: "], ids=["nothing", "half of the headers"])
async def test_connection_without_a_request_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_internals, "HEADERS_SECONDS", 0.2)
    async with console() as browser:
        reader, writer = await opened(browser, sent)
        assert await answer(reader) == b""
        writer.close()


async def test_form_that_does_not_arrive_is_given_up() -> None:
    async with console(deadline_seconds=0.2) as browser:
        host = browser.url.removeprefix("http://")
        head = f"POST /sign-in HTTP/1.1\r\nHost: {host}\r\nOrigin: {browser.url}\r\nContent-Length: 9\r\n"
        form = "Content-Type: application/x-www-form-urlencoded\r\n\r\na"
        reader, writer = await opened(browser, f"{head}{form}".encode())
        assert (await answer(reader)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS_MAX", 2)
    async with console() as browser:
        first = [await opened(browser) for _ in range(2)]
        reader, writer = await opened(browser)
        assert (await answer(reader)).startswith(b"HTTP/1.1 503 ")
        for one in (writer, *(writer for _, writer in first)):
            one.close()


async def test_console_with_a_certificate_speaks_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("console")
    async with console(tls_certificate_file=certificate, tls_key_file=key) as browser:
        url = f"https://127.0.0.1:{browser.parts.settings.port}/"
        trusted = ssl.create_default_context(cafile=authority.file)
        async with browser.session.get(url, ssl=trusted) as page:
            assert page.status == 200
            assert page.headers["Set-Cookie"].startswith("__Host-console-id=")
        reader, writer = await opened(browser, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert not (await answer(reader)).startswith(b"HTTP/"), "nothing is answered without TLS"
        writer.close()
