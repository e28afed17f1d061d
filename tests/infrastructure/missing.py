"""Finds programs, and ends a test that lacks one or a server: elsewhere it is skipped, with CI=true it fails."""

import os
import shutil
from typing import NoReturn

import pytest


def is_failure() -> bool:
    """Return whether it is a failure that something is missing: with CI=true."""
    return os.environ.get("CI") == "true"


def cannot_run(why: str) -> NoReturn:
    """Skip the test, or fail it with CI=true."""
    if is_failure():
        pytest.fail(why)
    pytest.skip(why)


def find_program(name: str) -> str | None:
    """Return the path of a server's program; None if it is not installed."""
    # Debian installs servers in a folder of root's PATH.
    return shutil.which(name, path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
