"""A command line for operators, as a call."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

from shared import exits, operators


@dataclass(frozen=True, slots=True)
class Said:
    """What the command line printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON that it printed."""
        return json.loads(self.out)


async def said(command_line: ModuleType, environment: Mapping[str, str], *arguments: str) -> Said:
    """Run the command line in a thread, as it brings its own event loop."""
    out: list[str] = []
    err: list[str] = []

    def run() -> int:
        try:
            command_line.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    with (
        patch.object(sys, "argv", ["admin", *arguments]),
        patch.dict("os.environ", environment),
        patch.object(operators, "print", lambda text, **_: out.append(text), create=True),
        patch.object(exits, "complain", lambda *lines: err.extend(lines)),
        patch("shared.logs.configure"),  # which is for a process of its own
    ):
        status = await asyncio.to_thread(run)
    return Said(status, "\n".join(out), "\n".join(err))
