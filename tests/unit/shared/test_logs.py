"""Log records are written as JSON lines, and no record can harm the code that logs it."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import structlog
from pydantic import BaseModel

from shared.process import logs

# Log records of libraries, in a separate process: pytest also handles the standard library's records.
LIBRARIES = """
import logging, threading, warnings
from shared.process import logs


class Unprintable:
    def __repr__(self):
        raise RuntimeError

    def __del__(self):
        raise RuntimeError


logs.configure("test")
logging.getLogger("library").error("failed %s", "thing")
warnings.warn("deprecated")
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
logging.getLogger("library").error("failed %d", "thing")
logging.getLogger("library").error("failed %s", Unprintable())
logging.getLogger("library").error("records that can't be rendered harm nobody")
"""


class Unprintable:
    """A value that can't be rendered."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function for the log since its last call, configured as in a service; restore the settings."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level, cached = root.handlers[:], root.level, logs.log
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(logs, "log", structlog.get_logger())
    logs.configure("test")
    yield lambda: [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    structlog.configure(**before)
    assert cached is not None


def test_line_has_service_event_level_and_fields(lines: Any) -> None:
    structlog.get_logger().info("something happened", count=3)
    (line,) = lines()
    assert line.pop("timestamp")
    assert line == {"service": "test", "event": "something happened", "level": "info", "count": 3}


def test_console_format_is_a_line_for_people(lines: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert lines() == []
    logs.configure("test", fmt="console")
    structlog.get_logger().info("something happened", count=3)
    (line,) = capfd.readouterr().out.splitlines()
    assert not line.startswith("{")
    assert "something happened" in line
    assert "count=3" in line


@pytest.mark.parametrize("value", [Unprintable(), "\ud800", {1: 2}, 1 << 70, {"a": Unprintable()}], ids=type)
def test_value_that_can_not_be_rendered_costs_the_fields_only(lines: Any, value: object) -> None:
    structlog.get_logger().error("something happened", value=value)
    (line,) = lines()
    assert "something happened" in line["event"]


def test_records_of_libraries_warnings_and_threads_come_as_lines() -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    library, warning, crash, ignored, last = map(json.loads, done.stdout.splitlines())
    assert library["event"] == "failed thing"
    assert "deprecated" in warning["event"]
    assert (crash["event"], crash["thread"]) == ("thread.crashed", "worker")
    assert crash["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert (ignored["event"], ignored["exception"][0]["exc_type"]) == ("error.unraisable", "RuntimeError")
    assert last["event"] == "records that can't be rendered harm nobody"


def test_trace_has_no_values_of_local_variables(lines: Any) -> None:
    password = "hunter2"
    try:
        raise ValueError(len(password))
    except ValueError:
        structlog.get_logger().exception("bug")
    (line,) = lines()
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "hunter2" not in json.dumps(line)


class Row(BaseModel):
    """A row that a test reads."""

    user_id: int


@pytest.mark.parametrize(
    ("bug", "left"),
    [
        (lambda: dict[str, int]()["alice"], "…"),
        (lambda: int("alice"), "invalid literal for int() with base 10: …"),
        (lambda: Row.model_validate({"user_id": "alice"}), "1 validation error for Row"),
        (lambda: None.alice, "'NoneType' object has no attribute 'alice'"),  # type: ignore[attr-defined]
    ],
)
def test_trace_of_a_bug_has_no_values(lines: Any, bug: Any, left: str) -> None:
    try:
        bug()
    except Exception:
        structlog.get_logger().exception("request.failed")
        logging.getLogger("library").exception("request failed")
    for line in lines():
        assert line["exception"][0]["exc_value"] == left


def test_trace_of_a_violated_constraint_names_it_without_the_row(lines: Any) -> None:
    error = asyncpg.UniqueViolationError('duplicate key value violates unique constraint "accounts_pkey" in "alice"')
    error.detail = "Key (user_id)=(alice) already exists."
    try:
        try:
            raise error
        except asyncpg.UniqueViolationError as cause:
            raise RuntimeError("while charging") from cause
    except RuntimeError:
        structlog.get_logger().exception("request.failed")
    (line,) = lines()
    assert "alice" not in str(line)
    assert [stack["exc_value"] for stack in line["exception"]] == [
        "while charging",
        'duplicate key value violates unique constraint "accounts_pkey" in …',
    ]
