"""JSON logs on standard output; request, trace and entity ids travel in context variables.

Logging never raises and never waits, whatever becomes of its reader or of what is to be logged (lines.py).
"""

import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

from shared import trace
from shared.lines import LOST, LineWriter

log = structlog.get_logger()

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


# Without the frames' local variables: they hold passwords and customers' data.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _dumps(event: MutableMapping[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


class _Logger:
    """What structlog hands its lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _Handler(logging.Handler):
    """What the standard library hands its records to."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001 - a record that can't be rendered must not harm who logs it
            LOST.inc()


def _bound_logger(level: int) -> type[Any]:
    """Return structlog's filtering logger, made so that a value which can't be rendered harms nobody."""
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


def configure(service: str, level: str = "info", fmt: str = "json") -> None:
    """Send structlog's and the standard library's records, and warnings, to standard output as one stream.

    `level`: debug, info, warning or error. `fmt`: json for machines, console for people.
    """
    writer = LineWriter(1)
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
        wrapper_class=_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _Logger(writer),
        cache_logger_on_first_use=True,
    )
    handler = _Handler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared_steps, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                last,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(LEVELS[level], logging.WARNING), force=True)
    # Else they are printed on standard error, which may be as full as the log.
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_of_thread


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    log.error("unraisable", where=repr(unraisable.object), exc_info=unraisable.exc_value)


def _log_of_thread(crash: threading.ExceptHookArgs) -> None:
    log.error("thread crashed", thread=getattr(crash.thread, "name", None), exc_info=crash.exc_value)
