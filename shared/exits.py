"""The exit statuses of every program here, and the way to end with one and a message.

docs/runbook.md has the table for operators. 128 + n is a shell's way to show that signal n killed the process.
"""

from enum import IntEnum
from typing import NoReturn

from shared.lines import LineWriter


class Exit(IntEnum):
    """Why a process has ended."""

    DONE = 0
    # Python's own status for what no code of ours caught, such as a package that is not installed, is 1 too.
    FAILED = 1
    MISCONFIGURED = 2
    NOT_DRAINED = 3
    NOT_CLEAN = 4
    STOPPED_LATE = 10
    TASK_DIED = 11
    CRASHED = 12
    NOT_MIGRATED = 13
    OUTPUT_LOST = 14
    CANNOT_LISTEN = 15
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "a clean stop, or the command is done",
    Exit.FAILED: "the command was refused, or what it needs is out of reach",
    Exit.MISCONFIGURED: "a wrong setting, command or argument",
    Exit.NOT_DRAINED: "drain-status found live sagas of that version",
    Exit.NOT_CLEAN: "the audit found something",
    Exit.STOPPED_LATE: "the graceful stop took too long",
    Exit.TASK_DIED: "a task died that the service is of no use without",
    Exit.CRASHED: "a bug, logged with its trace",
    Exit.NOT_MIGRATED: "a migration failed by its own fault",
    Exit.OUTPUT_LOST: "the command is done, but its result could not be written",
    Exit.CANNOT_LISTEN: "the port is taken, or the host is none of this machine",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


def end(status: Exit, *lines: str) -> NoReturn:
    """Write lines on standard error, as far as somebody reads there, and exit with a status."""
    complain(*lines)
    raise SystemExit(status)


def complain(*lines: str) -> None:
    """Write lines on standard error. If they can't be written they are lost; the caller goes on."""
    writer = LineWriter(2)
    for line in lines:
        writer.write(line)
