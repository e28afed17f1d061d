"""A command line ends with the status of its result, even if its output can't be written."""

import os
import subprocess
import sys

import pytest

from shared.process.exits import Exit

COMMAND = """
from shared.operators import command_ends, show
from shared.refusals import Refusal, Unavailable

with command_ends():
    {work}
"""


def ended(work: str, stdout: int, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    """Run a command; return its status and its standard error."""
    command = [sys.executable, "-c", COMMAND.format(work=work)]
    done = subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        ("show('fine')", Exit.DONE, ""),
        ("raise Refusal('It is not allowed.')", Exit.FAILED, "Refusal: It is not allowed.\n"),
        ("raise Unavailable('It is away.')", Exit.FAILED, "Unavailable: It is away.\n"),
        ("raise KeyboardInterrupt", Exit.INTERRUPTED, "interrupted\n"),
    ],
)
def test_command_ends_with_the_status_and_one_line_of_its_failure(work: str, status: Exit, said: str) -> None:
    assert ended(work, subprocess.PIPE) == (status, said)


def test_bug_comes_with_its_trace() -> None:
    status, said = ended("raise ValueError('a bug')", subprocess.PIPE)
    assert (status, said.splitlines()[-1]) == (Exit.CRASHED, "ValueError: a bug")
    assert said.startswith("Traceback")


def test_result_that_cannot_be_written_has_its_own_status() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for stdout, reason in ((full, "No space left on device"), (writing, "Broken pipe")):
            assert ended("show('lost')", stdout) == (
                Exit.OUTPUT_LOST,
                f"the result could not be written: {reason}\n",
            )
        assert ended("show('lost')", full, full)[0] == Exit.OUTPUT_LOST, "also when nobody reads the complaint"
        assert ended("import os; os.close(1); show('lost')", full)[0] == Exit.OUTPUT_LOST
    finally:
        os.close(full)
        os.close(writing)
