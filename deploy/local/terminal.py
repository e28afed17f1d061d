"""What the person at the terminal reads: progress, and in the end where things are and commands to try."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.local.configuration import SERVICES, Configuration
from deploy.local.folder import Folder, NotRunningError
from shared import exits
from shared.exits import Exit

ORDER_ID = """python3 -c 'import json,sys;print(json.load(sys.stdin)["order_id"])'"""


def say(line: str) -> None:
    """Tell how far things are. A terminal that is gone must not keep anybody from stopping in order."""
    write(f"{time.strftime('%H:%M:%S')}  {line}")


def write(text: str) -> None:
    """Print at once, to nowhere if nobody reads any more."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(lines: list[str]) -> None:
    """Print errors, one line each, to nowhere if nobody reads any more."""
    exits.complain(*lines)


def read_run_or_exit(folder: Folder) -> Mapping[str, Any]:
    """Return what runs where; if nothing does, say so and end."""
    try:
        return folder.read_run()
    except NotRunningError:
        complain(["Nothing runs here: start it with `make run` and wait until it says so"])
        sys.exit(Exit.MISCONFIGURED)


def ready_page(configuration: Configuration, kafka: str, run_json: Path, demo: bool) -> str:
    """The page as text; its commands can be pasted as often as one likes."""
    lines = ["", "Everything is running. Ctrl-C stops it; the data stays.", ""]
    for service in SERVICES:
        url = configuration.url(service)
        lines.append(f"  {service:<8} {url}   {url}/docs")
    lines.append(f"  {'admin':<8} {configuration.admin_url()}   {configuration.admin_url()}/docs")
    lines += [f"  {'kafka':<8} {kafka}", f"  {'more':<8} {run_json} (addresses, pids, database)", ""]
    if demo:
        lines += commands(configuration.url("order"))
    return "\n".join(lines)


def commands(order_url: str) -> list[str]:
    """Three commands, each on one line, for a shell that has curl and python3."""
    return [
        "Buy now:",
        f"  {place(order_url, 'now')}",
        "",
        "Buy later, and pay:",
        f"  curl -sSw '\\n' -X POST {order_url}/v1/orders/$({place(order_url, 'later')} | {ORDER_ID})/payment",
        "",
        "Watch the topic (in another terminal):",
        "  make watch-events",
        "",
        'Once each: add "coupon_id":"WELCOME10" to an order. Refused: 4 of "print", or user "carol".',
        "",
    ]


def place(order_url: str, payment: str) -> str:
    """The command that places an order."""
    body = {"user_id": "alice", "lines": [{"product_id": "keyboard", "quantity": 1}], "payment": payment}
    text = json.dumps(body, separators=(",", ":"))
    return f"curl -sSw '\\n' {order_url}/v1/orders -H 'Content-Type: application/json' -d '{text}'"
