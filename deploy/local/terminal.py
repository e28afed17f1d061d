"""Prints progress to the terminal, and then the addresses and commands to try."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.local.configuration import ADMIN_PORTS, SERVICES, Configuration
from deploy.local.folder import Folder, NotRunningError
from shared.process.exits import Exit, end

ORDER_ID = """python3 -c 'import json,sys;print(json.load(sys.stdin)["order_id"])'"""


def say(line: str) -> None:
    """Print progress. A closed terminal must not prevent an orderly stop."""
    write(f"{time.strftime('%H:%M:%S')}  {line}")


def write(text: str) -> None:
    """Print without buffering; do nothing if the reader has closed the output."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_run_or_exit(folder: Folder) -> Mapping[str, Any]:
    """Return the addresses of the local run; if there is none, print an error and exit."""
    try:
        return folder.read_run()
    except NotRunningError:
        end(Exit.MISCONFIGURED, "Nothing runs here: start it with `make run` and wait until everything is running")


# What to do there in a browser.
PURPOSES = {"console": "what happens, and repairs", "playground": "buy, break things, and see them come back"}


def ready_page(
    configuration: Configuration, places: Sequence[tuple[str, str]], kafka: str, run_json: Path, demo: bool
) -> str:
    """Return the page as text; its commands can be run repeatedly. `places`: names and addresses for a browser."""
    lines = ["", "Everything is running. Ctrl-C stops it; the data stays.", ""]
    for name, address in places:
        if address:
            lines.append(f"  {name:<8} {address}   (open it in a browser: {PURPOSES[name]})")
    for service in SERVICES:
        url = configuration.url(service)
        lines.append(f"  {service:<8} {url}   {url}/docs")
    for service in ADMIN_PORTS:
        url = configuration.admin_url(service)
        lines.append(f"  {'admin':<8} {url}   {url}/docs (operators: {service})")
    lines += [f"  {'kafka':<8} {kafka}", f"  {'more':<8} {run_json} (addresses, pids, database)", ""]
    if configuration.jwt:
        lines.insert(-1, f"  {'issuer':<8} {configuration.issuer} (`make token SUB=alice` prints a token)")
        lines.insert(
            -1, f'  {"":<8} (sign in to the console with: make token SUB=alice SCOPES="ops orders:read events:read")'
        )
    if demo:
        lines += commands(configuration.url("order"), jwt=configuration.jwt)
    return "\n".join(lines)


def commands(order_url: str, *, jwt: bool) -> list[str]:
    """Return three commands, each on one line, for a shell with curl and python3."""
    curl = "curl -sSw '\\n'" + (""" -H "Authorization: Bearer $(make -s token SUB=alice)\"""" if jwt else "")
    return [
        "Buy now:",
        f"  {place(curl, order_url, 'now')}",
        "",
        "Buy later, and pay:",
        f"  {curl} -X POST {order_url}/v1/orders/$({place(curl, order_url, 'later')} | {ORDER_ID})/payment",
        "",
        "Watch the topic (in another terminal):",
        "  make watch-events",
        "",
        'Once each: add "coupon_id":"WELCOME10" to an order. Refused: 4 of "print"'
        + ("." if jwt else ', or user "carol".'),
        "",
    ]


def place(curl: str, order_url: str, payment: str) -> str:
    """Return the command that places an order."""
    body = {"user_id": "alice", "lines": [{"product_id": "keyboard", "quantity": 1}], "payment": payment}
    text = json.dumps(body, separators=(",", ":"))
    return f"{curl} {order_url}/v1/orders -H 'Content-Type: application/json' -d '{text}'"
