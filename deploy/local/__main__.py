"""`make run`: starts everything on this machine and keeps it running until Ctrl-C."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 # the machine's Python may be older than the project's
    sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0])

import argparse
import asyncio
import os
import signal
import socket
import traceback
from collections.abc import Callable

from deploy.local import ports
from deploy.local.configuration import SERVICES, Configuration, MisconfiguredError, read
from deploy.local.folder import AlreadyRunningError, Folder
from deploy.local.mock_cluster import MockClusterError
from deploy.local.postgres import PostgresError
from deploy.local.stack import Stack, stop_leftovers
from deploy.local.supervisor import StartError
from deploy.local.terminal import say, write
from shared.process.exits import Exit, complain


def taken_ports(configuration: Configuration) -> list[str]:
    """Return a line for each wanted port that is not free; it names the setting to change."""
    wanted = [
        (
            f"the {service} service",
            f"{service.upper()}_PORT",
            configuration.hosts[service],
            configuration.ports[service],
        )
        for service in SERVICES
    ]
    for service, port in configuration.admin_ports.items():
        operators, host = f"the {service} service's operators' API", configuration.hosts[service]
        wanted.append((operators, f"{service.upper()}_ADMIN_PORT", host, port))
    if configuration.jwt:
        wanted.append(("the issuer", "ISSUER_PORT", "127.0.0.1", configuration.issuer_port))
        for service in SERVICES:
            listener, host = f"the {service} service's internal listener", configuration.hosts[service]
            port = configuration.internal_ports[service]
            wanted.append((listener, f"{service.upper()}_INTERNAL_PORT", host, port))
    if configuration.postgres_port is not None and not configuration.database_urls:
        wanted.append(("Postgres", "LOCAL_POSTGRES_PORT", "127.0.0.1", configuration.postgres_port))
    faces = {"console": configuration.console_port, "playground": configuration.playground_port}
    wanted += [
        (f"the {face}", f"{face.upper()}_PORT", "127.0.0.1", port) for face, port in faces.items() if port is not None
    ]
    if configuration.kafka_port is not None and configuration.kafka is None:
        wanted.append(("the broker", "LOCAL_KAFKA_PORT", "127.0.0.1", configuration.kafka_port))
    lines = []
    for who, setting, host, port in wanted:
        try:
            if not ports.is_free(host, port):
                lines.append(f"port {port} is taken, {who} needs it: stop what uses it or set {setting} to another")
        except (OSError, socket.gaierror) as error:
            lines.append(f"{who} cannot listen on {host}: {error.strerror} (setting {setting[:-4]}HOST)")
    return lines


async def serve(stack: Stack, *, demo: bool) -> None:
    """Run everything until SIGINT, SIGTERM or SIGHUP."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def run() -> None:
        await stack.up(demo=demo)
        async with stack.open(demo=demo):
            write(stack.page(demo=demo))
            await stack.keep_up()

    running, stopping = asyncio.create_task(run()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            say("Stopping")
    finally:
        stopping.cancel()
        running.cancel()
        (outcome,) = await asyncio.gather(running, return_exceptions=True)
        await stack.down()
    if isinstance(outcome, Exception):
        raise outcome
    say("Everything has stopped")


def start(*, demo: bool, package: str = "services", stack: Callable[..., Stack] = Stack) -> int:
    """Run a stack until it is stopped.

    Return the exit status: the one of the service or command that did not start, if any.
    """
    try:
        configuration = read(os.environ)
        folder = Folder(configuration.folder)
        folder.create()
        with folder.locked():
            stop_leftovers(folder, say)
            taken = taken_ports(configuration)
            if taken:
                complain(*taken)
                return Exit.CANNOT_LISTEN
            asyncio.run(serve(stack(configuration, folder, say, package), demo=demo))
    except MisconfiguredError as error:
        complain(*error.lines)
        return Exit.MISCONFIGURED
    except AlreadyRunningError as error:
        complain(f"`make run` already runs in this checkout (pid {error}); stop it first")
        return Exit.MISCONFIGURED
    except StartError as error:
        complain(*error.lines)
        return error.status
    except (PostgresError, MockClusterError, OSError) as error:
        complain(str(error))
        return Exit.FAILED
    return Exit.DONE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("--no-demo", action="store_true", help="load no demo data")
    arguments = parser.parse_args()
    try:
        status = start(demo=not arguments.no_demo)
    except KeyboardInterrupt:  # before anything was started
        status = Exit.INTERRUPTED
    except Exception:  # noqa: BLE001 - a bug, which the person at the terminal gets with its trace
        complain(traceback.format_exc().rstrip())
        status = Exit.CRASHED
    sys.exit(status)


if __name__ == "__main__":
    main()
