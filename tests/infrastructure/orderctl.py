"""Runs orderctl: in a thread, which takes a fiftieth of the time of a process."""

import asyncio
import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from unittest.mock import patch

from deploy.orderctl.__main__ import main
from deploy.orderctl.places import ADMIN, PUBLIC, variable
from shared.process import exits


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command has ended."""

    status: int
    out: str
    err: str


def all_at(url: str) -> dict[str, str]:
    """Return the settings for a server that is all services."""
    return {variable(name): url for name in (*PUBLIC, *ADMIN)}


async def orderctl(settings: Mapping[str, str], *arguments: str) -> Ended:
    """Run a command to its end. It has its own event loop, so it needs its own thread."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ORDERCTL_")}
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err: list[str] = []

    def run() -> int:
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        raise AssertionError("it ended without a status")

    with (
        patch.object(sys, "argv", ["orderctl", *arguments]),
        patch.dict("os.environ", {**clean, **settings}, clear=True),
        patch.object(sys, "stdout", out),
        patch.object(exits, "complain", lambda *lines: err.extend(lines)),
    ):
        status = await asyncio.to_thread(run)
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return Ended(status, out.buffer.getvalue().decode(), "".join(f"{line}\n" for line in err))
