"""Writes JSON logs to standard output, with request, trace and entity ids from context variables.

Logging never raises and never waits, even if its reader has ended or a value can't be rendered (lines.py).
"""

import logging
import os
import re
import sys
import threading
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

from shared.process import trace
from shared.process.lines import LOST, LineWriter

log = structlog.get_logger()

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


# Without the frames' local variables: they hold passwords and customers' data.
_transform = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
# Messages quote values, such as ids of users, except for the names of what is in the code or the schema.
_QUOTED = re.compile(r"""((?:constraint|relation|column|table|function) )?("[^"]*"|'[^']*')""")
_ABOUT_CODE = ("AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "TypeError", "UnboundLocalError")


def _trace(exc_info: Any) -> list[dict[str, Any]]:
    """Return an exception and its causes for a log: types, places and messages, without values of requests or rows."""
    stacks = _transform(exc_info)
    _without_values(stacks)
    return stacks


def _named(quoted: re.Match[str]) -> str:
    return quoted[0] if quoted[1] else "…"


def _without_values(stacks: list[dict[str, Any]]) -> None:
    for stack in stacks:
        # The lines after the first are Postgres' details and pydantic's inputs.
        message = stack["exc_value"].split("\n", 1)[0]
        stack["exc_value"] = message if stack["exc_type"] in _ABOUT_CODE else _QUOTED.sub(_named, message)
        for group in stack.get("exceptions", ()):
            _without_values(group)


_TRACEBACKS = structlog.processors.ExceptionRenderer(_trace)


def _dumps(event: MutableMapping[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


class _Logger:
    """Takes structlog's lines."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _Handler(logging.Handler):
    """Takes the standard library's records."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001 - a record that can't be rendered must not fail its caller
            LOST.inc()


def _bound_logger(level: int) -> type[Any]:
    """Return structlog's filtering logger, changed so that a value that can't be rendered raises nothing."""
    filtering: type[Any] = structlog.make_filtering_bound_logger(level)

    class BoundLogger(filtering):  # type: ignore[misc] # made at run time
        def _proxy_to_logger(self, method_name: str, event: str | None = None, **fields: Any) -> None:
            try:
                super()._proxy_to_logger(method_name, event, **fields)
            except Exception as error:  # noqa: BLE001 - as above
                try:
                    super()._proxy_to_logger(method_name, ascii(event), not_rendered=type(error).__name__)
                except Exception:  # noqa: BLE001 - as above
                    LOST.inc()

    return BoundLogger


class _Level:
    """The level of this process' log, and the class of its loggers."""

    name = "info"
    loggers: type[Any] | None = None


def is_debugging() -> bool:
    """Return whether the log's level is debug."""
    return _Level.name == "debug"


def change_level(level: str) -> None:
    """Change the level while the process runs. Loggers are cached, so their class is changed in place."""
    assert _Level.loggers is not None
    before, _Level.name = _Level.name, level
    for name, member in vars(structlog.make_filtering_bound_logger(LEVELS[level])).items():
        if not name.startswith("__"):
            setattr(_Level.loggers, name, member)
    log.warning("log_level.changed", before=before, now=level)


def configure(service: str, level: str = "info", fmt: str = "json") -> None:
    """Send structlog's and the standard library's records, and warnings, to standard output as one stream.

    `level`: debug, info, warning or error. `fmt`: json for machines, console for people.
    """
    writer = LineWriter(1)
    _Level.name, _Level.loggers = level, _bound_logger(LEVELS[level])
    shared_steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        trace.log_fields,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _method, event: {"service": service, **event},
    ]
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=os.isatty(1))
        if fmt == "console"
        else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    structlog.configure(
        processors=[*shared_steps, _TRACEBACKS, last] if fmt == "json" else [*shared_steps, last],
        wrapper_class=_Level.loggers,
        logger_factory=lambda *_: _Logger(writer),
        cache_logger_on_first_use=True,
    )
    handler = _Handler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared_steps, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _TRACEBACKS if fmt == "json" else structlog.processors.format_exc_info,
                last,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(LEVELS[level], logging.WARNING), force=True)
    # Otherwise warnings are printed on standard error, which may block.
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_of_thread


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    log.error("error.unraisable", where=repr(unraisable.object), exc_info=unraisable.exc_value)


def _log_of_thread(crash: threading.ExceptHookArgs) -> None:
    log.error("thread.crashed", thread=getattr(crash.thread, "name", None), exc_info=crash.exc_value)
