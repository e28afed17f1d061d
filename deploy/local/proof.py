"""Says beside `make consume` what the consumer has proved: a line when more minutes are proven, or something is wrong.

It ends with the consumer, which is the parent of this process.
"""

import argparse
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from deploy.local.terminal import write
from deploy.orderctl.plain import has_colour, sign

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 5.0
# What the consumer counts, and the words for it.
FAULTS: Mapping[str, str] = {
    "dead_letters": "records that can't be read",
    "forged_count": "forged events",
    "lost_count": "events that a restore has lost",
}


def proof(completeness: Mapping[str, Any], url: str, *, colour: bool) -> str | None:
    """Return a line for what `GET /v1/completeness` answers; None while nothing is known."""
    up_to = completeness["proven_up_to"]
    # A minute that is open or stale is compared soon, which is no fault.
    differing = {one["bucket"] for one in completeness["unproven"] if one["state"] == "DIFFERS"}
    counted = [
        (len(differing), "minutes that differ"),
        *((completeness[name], words) for name, words in FAULTS.items()),
    ]
    faults = ", ".join(f"{number:,} {words}" for number, words in counted if number)
    if up_to is None and not faults:
        return None
    since = "nothing is proven yet" if up_to is None else f"complete up to {clock(up_to)}"
    mark = sign(good=not faults, colour=colour)
    if not faults:
        return f"{mark} {since}: no event is missing, none is forged"
    return f"{mark} {since}; {faults}: {url}/v1/completeness"


def clock(timestamp: str) -> str:
    """Return a timestamp as a person reads it."""
    return f"{datetime.fromisoformat(timestamp):%Y-%m-%d %H:%M:%S} UTC"


def completeness_of(url: str) -> Any:
    """Return the consumer's answer; None if there is none now."""
    try:
        with urllib.request.urlopen(f"{url}/v1/completeness", timeout=ANSWER_SECONDS) as answer:  # noqa: S310 # http
            return json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None  # it starts or stops, or its database doesn't answer, which its log says


def main() -> None:
    """Look each second, while the consumer runs."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.proof", description=__doc__)
    parser.add_argument("url", help="the consumer's listener")
    parser.add_argument("pid", type=int, help="the consumer's process")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the consumer
    colour = has_colour()
    said = None
    while os.getppid() == arguments.pid:
        completeness = completeness_of(arguments.url)
        line = None if completeness is None else proof(completeness, arguments.url, colour=colour)
        if line not in (None, said):
            write(str(line))
            said = line
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
