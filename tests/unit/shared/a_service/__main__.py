"""Runs what a test wants of a service: SERVE names the function that serves."""

import asyncio
import os
from pathlib import Path
from typing import Never

import structlog

from shared.http.server import HttpServer
from shared.identity.authenticator import OpenAuthenticator
from shared.process import main
from shared.process.settings import ServiceSettings
from shared.process.stopping import Stop
from shared.process.tasks import background
from shared.refusals import Unavailable

log = structlog.get_logger()


class Settings(ServiceSettings):
    port: int = int(os.environ.get("PORT", "1"))
    database_url: str = "postgresql://nobody@127.0.0.1:1/nowhere"


async def until_stopped(_: Settings, stop: Stop) -> None:
    print("serving", flush=True)
    await stop.wait()


async def hang(_: Settings, __: Stop) -> None:
    print("serving", flush=True)
    await asyncio.Event().wait()


async def stop_slowly(settings: Settings, stop: Stop) -> None:
    await until_stopped(settings, stop)
    print("stopping", flush=True)
    await asyncio.sleep(1)


async def crash(_: Settings, __: Stop) -> None:
    raise ValueError("a bug")


async def die() -> Never:
    raise ValueError("a bug")


async def lose_a_task(_: Settings, stop: Stop) -> None:
    async with background("mortal", die):
        await stop.wait()


async def lose_a_task_and_hang(settings: Settings, _: Stop) -> None:
    async with background("mortal", die):
        await HttpServer("x", "x", settings, OpenAuthenticator(), [], {}).run(Stop())


async def listen(settings: Settings, stop: Stop) -> None:
    await HttpServer("x", "x", settings, OpenAuthenticator(), [], {}).run(stop)


async def chat() -> Never:
    while True:
        log.info("chatter", text="x" * 200)
        await asyncio.sleep(0.0001)


async def log_and_serve(settings: Settings, stop: Stop) -> None:
    async with background("chatter", chat):
        await listen(settings, stop)


async def done(_: Settings) -> int:
    return 0


async def unavailable(_: Settings) -> Never:
    raise Unavailable("nothing answers")


async def wait(_: Settings) -> int:
    print("serving", flush=True)
    await asyncio.Event().wait()
    return 0


if __name__ == "__main__":
    main.STOP_MAX_SECONDS = float(os.environ.get("STOP_MAX_SECONDS", "5"))
    serve = globals()[os.environ.get("SERVE", "until_stopped")]
    commands = {"done": done, "unavailable": unavailable, "buggy": lambda _: die(), "wait": wait}
    main.main(main.Service("x", Settings, "x", Path(os.environ.get("MIGRATIONS", ".")), serve, commands))
