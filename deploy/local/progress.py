"""Shows on a terminal that something long goes on: one line on standard error, replaced each second, then removed.

Elsewhere, in a pipe or a file, it writes nothing.
"""

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

FIRST_SECONDS = 1.0  # what is done sooner needs no line
CLEAR = "\r\x1b[K"


class Progress:
    """A context in which the line stands. What else is printed meanwhile overwrites it, if it is as long."""

    def __init__(
        self,
        text: str,
        *,
        stream: TextIO | None = None,
        first_seconds: float = FIRST_SECONDS,
        every_seconds: float = 1.0,
    ) -> None:
        self._text = text
        self._stream = stream or sys.stderr
        self._waits = (first_seconds, every_seconds)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def update(self, text: str) -> None:
        """Replace the text, from the next second on."""
        self._text = text

    def __enter__(self) -> "Progress":
        if self._stream.isatty():
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        began = time.monotonic()
        wait, every = self._waits
        shown = False
        while not self._ended.wait(wait):
            line = f"{self._text} … {time.monotonic() - began:.0f} s"
            if not self._wrote(CLEAR + line[: shutil.get_terminal_size().columns - 1] + "\r"):
                return
            shown, wait = True, every
        if shown:
            self._wrote(CLEAR)

    def _wrote(self, text: str) -> bool:
        """Return whether the terminal took the text. A closed one, or one that knows no …, must not end the work."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True
