"""Runs tests of a copy of the repository, each call in a fork of a process that has the libraries loaded already.

Loading pytest and the libraries takes a second; most tests that notice a missing guard take less. `python -m
tests.mutation.forks` is the process that forks: it reads a request a line and answers a line.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.mutation.guard import REPOSITORY

# Nothing of the repository: a fork loads that from the copy.
LIBRARIES = (
    *("pytest", "_pytest.assertion.rewrite", "pytest_asyncio", "pytest_timeout", "hypothesis", "hypothesis.stateful"),
    *("aiohttp.web", "aiokafka", "aiokafka.admin", "asyncpg", "jsonschema", "orjson", "prometheus_client", "psutil"),
    *("psycopg", "pydantic", "pydantic_settings", "structlog", "testcontainers.core.container", "uvloop", "yoyo"),
)
PYTEST = (
    *("-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"),
    # A test that hangs has noticed: less time for it than where it is to pass, and the end of the process, since a
    # mutant may swallow what is raised in it.
    *("--timeout=45", "--timeout-method=thread"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the plugins are loaded before pytest looks for them
)
# Beyond the tests' own limit, which asyncio may not heed where a mutant spins.
LIMIT_SECONDS = 240


class Forks:
    """The process that forks, for as long as the body runs."""

    def __enter__(self) -> "Forks":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.forks"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:  # closes both pipes and waits: what is left open is reported in the middle of a later test
            assert self._process.stdin is not None
            self._process.stdin.close()

    def run(
        self, folder: Path, tests: Sequence[str], environment: Mapping[str, str], *, stop_at_first: bool = False
    ) -> dict[str, str]:
        """Run tests in a copy of the repository; return how each ended: passed, failed, error or skipped.

        Tests that did not end in time are missing.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as work:
            report = Path(work) / "report.xml"
            options = [*PYTEST, "--basetemp", f"{work}/tests", "--junitxml", str(report), *["-x"] * stop_at_first]
            request = {"folder": str(folder), "arguments": [*options, *tests], "environment": dict(environment)}
            self._process.stdin.write(json.dumps({**request, "log": f"{work}/log"}) + "\n")
            self._process.stdin.flush()
            if not self._process.stdout.readline():
                raise RuntimeError("the process that forks has ended")
            return _results(report) if report.exists() else {}


def _results(report: Path) -> dict[str, str]:
    results: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        ends = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        if results.get(name) != "failed":  # of a test that also leaves something behind that is an error
            results[name] = {"failure": "failed"}.get(ends[0], ends[0]) if ends else "passed"
    return results


def main() -> None:
    """Answer each request with the exit status of pytest, or -1 if it took too long."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        print(_forked(json.loads(line)), flush=True)


def _forked(request: Mapping[str, object]) -> int:
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


def _run(request: Mapping[str, object]) -> None:
    """Run pytest in this process and end it."""
    import pytest  # noqa: PLC0415 - what main() has loaded

    os.setsid()  # what a hanging test has started ends with it
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT)
    for stream in (0, 1, 2):
        os.dup2(log if stream else os.open(os.devnull, os.O_RDONLY), stream)
    folder, arguments, environment = request["folder"], request["arguments"], request["environment"]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    os.environ.update(environment)
    os.chdir(str(folder))
    # The rest of the path is the libraries'; what is loaded of the repository is this module only.
    sys.path[:] = [str(folder), *[place for place in sys.path if place not in ("", str(REPOSITORY))]]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    status = 1
    try:
        status = int(pytest.main(arguments))
    except BaseException:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
