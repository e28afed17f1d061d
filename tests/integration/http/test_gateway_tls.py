"""The gateway with TLS, whose certificate can be replaced; and a scanner, which finds nothing in its configuration."""

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.infrastructure.authority import Authority
from tests.infrastructure.gateway import CONFIGURATION, NO_LIMITS, SERVICES, RunningGateway, gateway
from tests.infrastructure.raw_http import RawAnswer, read_answer, send
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.integration.http.messages import get
from tests.integration.http.upstream import WHOLE, upstream

RUNBOOK = (CONFIGURATION.parents[1] / "docs" / "runbook.md").read_text()
RELOAD_SECONDS = 10
HANDSHAKE_SECONDS = 3


def make_certificate(folder: Path) -> str:
    """Write a certificate for localhost and its key, or replace them; return the certificate of its new authority."""
    authority = Authority(folder)
    _, key = authority.issue("certificate")
    Path(key).replace(folder / "key.pem")
    return authority.file.read_text()


@pytest.fixture
def running(reaper: Reaper, tmp_path: Path) -> Iterator[RunningGateway]:
    """Run the gateway with TLS."""
    listeners = tmp_path / "listeners"
    shutil.copytree(CONFIGURATION / "tls", listeners)
    make_certificate(listeners)
    with upstream() as url, gateway(dict.fromkeys(SERVICES, url), reaper, NO_LIMITS, listeners) as running:
        yield running


@contextlib.asynccontextmanager
async def connected(
    running: RunningGateway, authority: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect with TLS, and trust only this authority."""
    tls = ssl.create_default_context(cadata=authority)
    port = urlsplit(running.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> RawAnswer:
    writer.write(get(WHOLE))
    return await read_answer(reader)


async def test_certificate_is_replaced_by_a_reload(running: RunningGateway) -> None:
    listeners = running.folder / "listeners"
    old = (listeners / "authority.pem").read_text()
    async with connected(running, old) as opened:
        assert (await ask(*opened)).status == 200
    new = make_certificate(listeners)
    running.reload()

    async def is_served(authority: str) -> bool:
        with contextlib.suppress(ssl.SSLError):
            async with connected(running, authority) as opened:
                return (await ask(*opened)).status == 200
        return False

    async def is_withdrawn() -> bool:
        return not await is_served(old)

    await eventually(lambda: is_served(new), RELOAD_SECONDS, "the new certificate")
    # For a moment, old and new workers of nginx accept connections side by side.
    await eventually(is_withdrawn, RELOAD_SECONDS, "the end of the old certificate")


async def test_listener_with_tls_serves_nothing_without_it(running: RunningGateway) -> None:
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await send(running.url, get(WHOLE))


async def test_client_that_starts_no_handshake_is_cut_off(running: RunningGateway) -> None:
    parts = urlsplit(running.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    begun = time.monotonic()
    with contextlib.closing(writer), contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    assert HANDSHAKE_SECONDS - 0.5 < time.monotonic() - begun < HANDSHAKE_SECONDS + 2


async def test_old_versions_of_tls_are_refused(running: RunningGateway) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
    parts = urlsplit(running.url)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)


async def test_gateway_forwards_only_to_services_with_a_valid_certificate(reaper: Reaper, tmp_path: Path) -> None:
    known, other = Authority(tmp_path), Authority(tmp_path, "other")
    verified = re.findall(r"proxy_ssl_[^`]*;", RUNBOOK)[0].replace("/etc/nginx/services.pem", str(known.file))
    name = "proxy_ssl_name localhost;"  # its URL has an address, which nginx does not look for in certificates
    changes = NO_LIMITS | {"proxy_http_version 1.1;": f"proxy_http_version 1.1; {verified} {name}"}
    statuses = []
    for authority in (known, other):
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*authority.issue("service"))
        with upstream(tls) as url, gateway(dict.fromkeys(SERVICES, url), reaper, changes) as running:
            statuses.append((await send(running.url, get(WHOLE))).status)
    assert statuses == [200, 503]


@pytest.mark.parametrize("listener", ["plain", "tls"])
def test_scanner_finds_nothing_in_the_configuration(tmp_path: Path, listener: str) -> None:
    shutil.copytree(CONFIGURATION, tmp_path, dirs_exist_ok=True)
    shutil.copytree(CONFIGURATION / listener, tmp_path / "listeners")
    command = [str(Path(sys.executable).parent / "gixy"), "--format=text", str(tmp_path / "nginx.conf")]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert found.stderr == ""
    assert "No issues found" in found.stdout
