"""The sources of the previous version, from this repository's history, and a Python with its packages."""

import io
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infrastructure.builds import one_at_a_time

REPOSITORY = Path(__file__).parents[2]
FILE = Path(__file__).with_name("previous-version")
PACKAGES = Path("deploy", "local", "requirements.lock")  # of all services
ALL_COMBINATIONS = bool(os.environ.get("VERSIONS_ALL"))  # set by `make versions`
_PIN = re.compile(r"^([\w.-]+==\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Version:
    """Sources, and the Python that runs them."""

    source: Path
    python: str


CURRENT = Version(REPOSITORY, sys.executable)


def commit() -> str:
    """Return the commit that the file names."""
    (found,) = [line.strip() for line in FILE.read_text().splitlines() if not line.startswith("#")]
    return found


def previous_version(folder: Path) -> Version:
    """Write the previous version's sources into a folder and return it.

    If the commit is not in this clone, the test is skipped; in `make versions` it fails.
    """
    command = ["git", "-C", str(REPOSITORY), "archive", "--format=tar", commit()]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        why = (
            f"the previous version, {commit()}, is not in this clone. Fetch the whole history (git fetch --unshallow),"
            f" or correct {FILE.relative_to(REPOSITORY)}. git says: {archive.stderr.decode()}"
        )
        (pytest.fail if ALL_COMBINATIONS else pytest.skip)(why)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return Version(folder, _python(folder))


def _python(source: Path) -> str:
    """Return this Python if it has the packages of the sources' lock; otherwise one that gets exactly those."""
    if pins(source / PACKAGES) <= pins(REPOSITORY / "tests" / "requirements.lock"):
        return sys.executable
    environment = REPOSITORY / ".local" / "previous-version" / commit()
    with one_at_a_time(environment.parent):
        install = [sys.executable, str(source / "deploy" / "environment.py"), str(environment), str(source / PACKAGES)]
        subprocess.run(install, check=True)
    return str(environment / "bin" / "python")


def pins(lock: Path) -> set[str]:
    """Return the packages of a lock file, each with its version."""
    return set(_PIN.findall(lock.read_text()))
