"""Puts the parts together: `python -m deploy.console` serves until SIGTERM or Ctrl-C."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial

import aiohttp
import structlog

from deploy.console import metrics
from deploy.console.application import application, internal, said
from deploy.console.figures.replicas import Replicas
from deploy.console.figures.sampler import Sampler
from deploy.console.figures.scraping import scrape
from deploy.console.jobs import Jobs
from deploy.console.listener import listening
from deploy.console.pages import books, live, orders, outbox, sagas, services
from deploy.console.rendering import Renderer
from deploy.console.sessions import Sessions
from deploy.console.settings import ConsoleSettings
from deploy.console.streams import Streams
from deploy.console.visit import Parts
from shared import tls
from shared.identity.modes import authenticator
from shared.process import build, logs
from shared.process.exits import Exit, end
from shared.process.settings import load
from shared.process.tasks import background, essentials

log = structlog.get_logger()

PAGES = (live.PAGE, orders.PAGE, sagas.PAGE, outbox.PAGE, books.PAGE, services.PAGE)


async def serve(settings: ConsoleSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with AsyncExitStack() as stack:
        callers = await stack.enter_async_context(authenticator(settings))
        context = tls.client(tls.TlsFiles(authorities=settings.ca_file))()
        connector = aiohttp.TCPConnector(ssl=context)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        )
        replicas = Replicas(settings.replicas)
        sampler = Sampler(replicas, partial(scrape, http))
        streams = Streams(settings.streams_max)
        jobs = Jobs(said)
        stack.push_async_callback(jobs.close)
        parts = Parts(settings, Sessions(), callers, sampler, streams, jobs, http, Renderer(PAGES))
        await stack.enter_async_context(background("replicas", replicas.run))
        await stack.enter_async_context(background("figures", sampler.run))
        metrics.watch(parts)
        listeners = [(settings.port, listening(application(parts, PAGES), settings))]
        if settings.internal_port is not None:
            listeners.append((settings.internal_port, listening(internal(parts), settings, settings.internal_port)))
        for port, listener in listeners:
            try:
                await stack.enter_async_context(listener)
            except OSError as error:
                end(Exit.CANNOT_LISTEN, f"cannot listen on {settings.host}:{port}: {error.strerror}")
            secure = settings.tls_certificate_file is not None
            log.info("server.listening", host=settings.host, port=port, tls=secure)
        await stop.wait()
        sampler.close()


async def _serve(settings: ConsoleSettings) -> Exit:
    stop = asyncio.Event()
    essentials.on_death = stop.set
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop)
    log.info("process.stopped")
    return Exit.TASK_DIED if essentials.dead else Exit.DONE


def main() -> None:
    """Run the console, and exit with a status of shared/process/exits.py."""
    if sys.argv[1:]:
        end(Exit.MISCONFIGURED, f"the console takes no arguments (got {sys.argv[1]!r})")
    settings = load(ConsoleSettings)
    if wrong := settings.errors():
        end(Exit.MISCONFIGURED, *wrong)
    logs.configure("console", settings.log_level, settings.log_format)
    build.announce("console")
    try:
        status = asyncio.run(_serve(settings))
    except KeyboardInterrupt:
        status = Exit.INTERRUPTED
    except Exception as error:
        log.exception("process.crashed", detail=repr(error))
        status = Exit.CRASHED
    raise SystemExit(status)


if __name__ == "__main__":
    main()
