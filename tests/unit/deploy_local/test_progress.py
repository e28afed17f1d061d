"""The line that shows on a terminal that something long goes on."""

import io

from deploy.local.progress import CLEAR, Progress
from tests.infrastructure.waiting import wait_until


class Terminal(io.StringIO):
    """A terminal's output."""

    closed_by_its_reader = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.closed_by_its_reader:
            raise BrokenPipeError
        return super().write(text)


def test_line_is_shown_replaced_and_removed() -> None:
    terminal = Terminal()
    with Progress("reading", stream=terminal, first_seconds=0.01, every_seconds=0.01) as progress:
        wait_until(lambda: "reading … 0 s" in terminal.getvalue(), 10, "the line")
        progress.update("writing")
        wait_until(lambda: "writing … 0 s" in terminal.getvalue(), 10, "the other line")
    assert terminal.getvalue().startswith(f"{CLEAR}reading")
    assert terminal.getvalue().endswith(CLEAR)
    assert "\n" not in terminal.getvalue()


def test_nothing_is_written_for_what_is_done_soon() -> None:
    terminal = Terminal()
    with Progress("reading", stream=terminal, first_seconds=60):
        pass
    assert terminal.getvalue() == ""


def test_nothing_is_written_to_a_pipe() -> None:
    pipe = io.StringIO()
    with Progress("reading", stream=pipe, first_seconds=0, every_seconds=0.001) as progress:
        assert progress._thread is None
    assert pipe.getvalue() == ""


def test_line_that_is_too_long_is_cut() -> None:
    terminal = Terminal()
    with Progress("x" * 500, stream=terminal, first_seconds=0.01, every_seconds=0.01):
        wait_until(lambda: "x" in terminal.getvalue(), 10, "the line")
    assert max(map(len, terminal.getvalue().split(CLEAR))) < 200


def test_closed_terminal_does_not_end_the_work() -> None:
    terminal = Terminal()
    terminal.closed_by_its_reader = True
    with Progress("reading", stream=terminal, first_seconds=0.01) as progress:
        thread = progress._thread
        assert thread is not None
        wait_until(lambda: not thread.is_alive(), 10, "the end of the line")
