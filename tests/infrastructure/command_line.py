"""Calls an operators' command line in the test's process."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

from shared import operators
from shared.process import exits


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The command line's output and exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the printed JSON."""
        return json.loads(self.out)


async def run_command(command_line: ModuleType, environment: Mapping[str, str], *arguments: str) -> CommandResult:
    """Run the command line in a thread, because it has its own event loop."""
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
        patch("shared.process.logs.configure"),  # it configures the whole process
    ):
        status = await asyncio.to_thread(run)
    return CommandResult(status, "\n".join(out), "\n".join(err))
