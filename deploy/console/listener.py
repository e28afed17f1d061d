"""The console's listener: who sends or reads nothing is soon gone, and all connections together are bounded.

It is the connection of the services' listeners, without their gates.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from deploy.console.settings import ConsoleSettings
from shared import tls
from shared.http.aiohttp_internals import Connection
from shared.http.connection import CONNECTIONS_MAX, ConnectionLimit, Handshake, RejectedConnection
from shared.http.plain_listener import PlainListener
from shared.http.tls_listener import TlsListener

KEPT_SECONDS = 75.0  # between two requests; a page that is open asks each 5 seconds
CLIENT_SECONDS = 15.0  # without a sign of a browser that something is sent to
STOP_SECONDS = 2.0  # running requests end within it; browsers reconnect their streams


@asynccontextmanager
async def listening(app: web.Application, settings: ConsoleSettings, port: int | None = None) -> AsyncIterator[None]:
    """Serve an application where the settings say, or at its internal `port`. Raises OSError if that is impossible."""
    files = tls.TlsFiles(settings.tls_certificate_file, settings.tls_key_file)
    secure = tls.server(files) if files.certificate else None
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None
    limit = ConnectionLimit("console" if port is None else "console internal", internal=port is not None)
    # An encoded body is no form that a browser sends.
    options = {"access_log": None, "auto_decompress": False, "keepalive_timeout": KEPT_SECONDS, "lingering_time": 1.0}

    def connect(handshake: Handshake | None = None) -> asyncio.Protocol:
        return Connection(server, CLIENT_SECONDS, limit, {}, handshake, loop=loop, **options)

    def accept() -> asyncio.Protocol:
        return RejectedConnection() if limit.full else connect()

    listener = TlsListener(secure, limit, connect, CLIENT_SECONDS) if secure else PlainListener(accept)
    try:
        bound = await loop.create_server(accept, settings.host, port or settings.port, start_serving=False)
        await listener.listen(bound.sockets, CONNECTIONS_MAX)
        bound.close()
        yield
    finally:
        await listener.close()
        server.pre_shutdown()
        await server.shutdown(STOP_SECONDS)
        await runner.cleanup()
