"""A copy of the repository to take guards out of: what is changed in it is nobody else's code."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mutation.guard import REPOSITORY

PARTS = ("deploy", "docs", "services", "shared", "tests", "pyproject.toml")
LATER_SECONDS = 10  # than the original, by its time: what was compiled from that is not taken for this


@contextmanager
def copied() -> Iterator[Path]:
    """Lend a copy, with what is compiled already."""
    with tempfile.TemporaryDirectory(prefix="order-platform-mutants-") as folder:
        for part in PARTS:
            if (REPOSITORY / part).is_dir():
                shutil.copytree(REPOSITORY / part, Path(folder) / part)
            else:
                shutil.copy2(REPOSITORY / part, folder)
        yield Path(folder)


@contextmanager
def replaced(file: Path, text: str) -> Iterator[None]:
    """Have another text in a file of a copy while the body runs."""
    original, times = file.read_text(), file.stat()
    file.write_text(text)
    os.utime(file, (times.st_atime, times.st_mtime + LATER_SECONDS))
    try:
        yield
    finally:
        file.write_text(original)
        os.utime(file, (times.st_atime, times.st_mtime))
