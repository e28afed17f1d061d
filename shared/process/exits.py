"""The exit statuses of all programs, and functions that end a process with a status and a message.

docs/runbook.md has the table for operators. A shell reports 128 + n for a process that signal n killed.
"""

from enum import IntEnum
from typing import NoReturn

from shared.process.lines import LineWriter


class Exit(IntEnum):
    """Why a process has ended: the status, and its meaning."""

    meaning: str

    def __new__(cls, status: int, meaning: str) -> "Exit":
        member = int.__new__(cls, status)
        member._value_, member.meaning = status, meaning
        return member

    DONE = 0, "a clean stop, or the command is done"
    # Python also exits with 1, for an error that our code did not catch, such as a package that is not installed.
    FAILED = 1, "the command was refused, or a service that it needs can't be reached"
    MISCONFIGURED = 2, "a wrong setting, command or argument"
    NOT_DRAINED = 3, "drain-status found live sagas of that version"
    NOT_CLEAN = 4, "the audit found something"
    STOPPED_LATE = 10, "the graceful stop took too long"
    TASK_DIED = 11, "an essential background task died"
    CRASHED = 12, "a bug, logged with its trace"
    NOT_MIGRATED = 13, "a migration failed because of a bug in it"
    OUTPUT_LOST = 14, "the command is done, but its result could not be written"
    CANNOT_LISTEN = 15, "the port is in use, or the host is not an address of this machine"
    INTERRUPTED = 130, "interrupted by Ctrl-C"


def end(status: Exit, *lines: str) -> NoReturn:
    """Write lines to standard error if possible, and exit with a status."""
    complain(*lines)
    raise SystemExit(status)


def complain(*lines: str) -> None:
    """Write lines to standard error. Lines that can't be written are lost, and nothing is raised."""
    writer = LineWriter(2)
    for line in lines:
        writer.write(line)
