"""Runs tests on a mutant: in a copy of the repository, and in a fork of a process that has loaded the libraries.

Loading pytest and the libraries takes a second; most tests that notice a missing guard take less. `python -m
tests.mutation.sandbox` is the process that forks: it reads a request a line and answers a line.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.mutation.guard import REPOSITORY

PARTS = ("deploy", "docs", "services", "shared", "tests", "pyproject.toml", ".dockerignore")
# Nothing of the repository: a fork loads that from the copy.
LIBRARIES = (
    *("pytest", "_pytest.assertion.rewrite", "pytest_asyncio", "pytest_timeout", "hypothesis", "hypothesis.stateful"),
    *("aiohttp.web", "aiokafka", "aiokafka.admin", "asyncpg", "jsonschema", "orjson", "prometheus_client", "psutil"),
    *("psycopg", "pydantic", "pydantic_settings", "structlog", "testcontainers.core.container", "uvloop", "yoyo"),
)
PYTEST = (
    *("-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"),
    # A test that hangs has noticed: less time for it than where it is to pass, its cleaning up included, and the end of
    # the process, since a mutant may swallow what is raised in it.
    *("--timeout=30", "--timeout-method=thread", "-o", "timeout_func_only=false"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the plugins are loaded before pytest looks for them
)
# Beyond the tests' own limit, which asyncio may not heed where a mutant spins.
LIMIT_SECONDS = 240
# A changed file is this much younger than the original, so that the original's compiled code is not taken for its.
YOUNGER_SECONDS = 10


class Sandbox:
    """A copy of the repository, and the process that forks, for as long as the body runs."""

    def __enter__(self) -> "Sandbox":
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="order-platform-mutants-")))
            for part in PARTS:
                if (REPOSITORY / part).is_dir():
                    shutil.copytree(REPOSITORY / part, self._folder / part)
                else:
                    shutil.copy2(REPOSITORY / part, self._folder)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.mutation.sandbox"],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack, self._process:  # closes both pipes and waits
            assert self._process.stdin is not None
            self._process.stdin.close()

    def run(
        self,
        tests: Sequence[str],
        environment: Mapping[str, str],
        *,
        change: tuple[str, str] | None = None,
        stop_at_first: bool = False,
    ) -> dict[str, str] | None:
        """Run tests, with another text in a file if `change` is its path and text.

        Return how each test ended: passed, failed, error or skipped. A file that cannot be loaded stands there as
        "not loaded"; if no file can, the result may be empty. None if a test hung or ended the process.
        """
        with self._changed(change), tempfile.TemporaryDirectory() as work:
            results = Path(work) / "results"
            request = {
                "arguments": [*PYTEST, "--basetemp", f"{work}/tests", *["-x"] * stop_at_first, *tests],
                "environment": dict(environment),
                "folder": str(self._folder),
                "log": f"{work}/log",
                "results": str(results),
            }
            self._ask(json.dumps(request))
            return dict(json.loads(results.read_text())) if results.exists() else None

    def _ask(self, request: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError("the process that forks has ended")

    @contextmanager
    def _changed(self, change: tuple[str, str] | None) -> Iterator[None]:
        if change is None:
            yield
            return
        file = self._folder / change[0]
        original, times = file.read_text(), file.stat()
        file.write_text(change[1])
        os.utime(file, (times.st_atime, times.st_mtime + YOUNGER_SECONDS))
        try:
            yield
        finally:
            file.write_text(original)
            os.utime(file, (times.st_atime, times.st_mtime))


class Ends:
    """The plugin of pytest that notes how each test ended."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file or folder that cannot be loaded."""
        if report.failed:
            self.ends[report.nodeid] = "not loaded"

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test's setup, call or teardown: the call's failure counts most."""
        if report.failed and self.ends.get(report.nodeid) != "failed":
            self.ends[report.nodeid] = "failed" if report.when == "call" else "error"
        elif report.outcome != "failed" and (report.skipped or report.when == "call"):
            self.ends[report.nodeid] = report.outcome


def main() -> None:
    """Answer each request with the exit status of the fork that ran it."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # a fork's collections skip the libraries, which live as long as it does
    for line in sys.stdin:
        print(_forked(json.loads(line)), flush=True)


def _forked(request: Mapping[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        _run(request)
    previous = signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
    signal.alarm(LIMIT_SECONDS)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return os.waitstatus_to_exitcode(status)


def _run(request: Mapping[str, Any]) -> None:
    """Run pytest in this process and end it."""
    import pytest  # noqa: PLC0415 - what main() has loaded

    os.setsid()  # what a hanging test has started ends with it
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT)
    for stream in (0, 1, 2):
        os.dup2(log if stream else os.open(os.devnull, os.O_RDONLY), stream)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # The rest of the path is the libraries'; what is loaded of the repository is this module only.
    sys.path[:] = [request["folder"], *[place for place in sys.path if place not in ("", str(REPOSITORY))]]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    status, ends = 1, Ends()
    try:
        status = int(pytest.main(request["arguments"], plugins=[ends]))
        Path(request["results"]).write_text(json.dumps(ends.ends))
    except BaseException:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
