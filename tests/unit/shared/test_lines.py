"""A line is written completely or not at all; writing never raises and never waits."""

import os
import pty
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from shared.process import lines
from shared.process.lines import LineWriter

LINE = "x" * 199
# More than any buffer of this system, even with the largest pipe.
MORE_THAN_FITS = 2 * lines.PIPE_BYTES // len(LINE)

pytestmark = pytest.mark.timeout(20)  # a write that waits for a reader would wait for ever


def lost() -> float:
    """Return how many lines were lost."""
    return REGISTRY.get_sample_value("log_lines_lost_total") or 0.0


def fill(writer: LineWriter) -> int:
    """Without a reader, write more than fits; return how many lines were written."""
    before = lost()
    for _ in range(MORE_THAN_FITS):
        writer.write(LINE)
    assert lost() > before
    return MORE_THAN_FITS - int(lost() - before)


def drain(descriptor: int) -> bytes:
    """Read the available data."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while piece := os.read(descriptor, 1 << 20):
            found += piece
    except BlockingIOError:
        pass
    return found


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield a pipe's reading and writing ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test may have closed it
            os.close(end)


@pytest.fixture(params=["a description of its own", "a shared description"])
def writer(request: pytest.FixtureRequest, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> LineWriter:
    """Return a writer to the pipe, also if the system does not let it reopen the pipe."""
    if request.param == "a shared description":

        def refuse(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", refuse)
    return LineWriter(pipe[1])


def test_lines_arrive_as_they_are(writer: LineWriter, pipe: tuple[int, int]) -> None:
    writer.write("first")
    writer.write("zweite \u20ac")
    assert drain(pipe[0]).decode() == "first\nzweite \u20ac\n"


def test_full_pipe_loses_lines_and_breaks_none(writer: LineWriter, pipe: tuple[int, int]) -> None:
    written = fill(writer)
    assert written > 1000
    found = drain(pipe[0])
    writer.write("after")
    found += drain(pipe[0])
    assert found.decode().splitlines() == [*[LINE] * written, "after"]


def test_line_longer_than_the_pipe_is_ended_before_the_next_one(writer: LineWriter, pipe: tuple[int, int]) -> None:
    long = "y" * (lines.PIPE_BYTES + 10_000)
    before = lost()
    writer.write(long)
    writer.write("dropped, as the one before is not at its end")
    assert lost() == before + 1
    found = drain(pipe[0])
    writer.write("after")
    found += drain(pipe[0])
    assert found.decode().splitlines() == [long, "after"]
    assert lost() == before + 1


def test_reader_that_is_gone_costs_the_line_only(writer: LineWriter, pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    before = lost()
    writer.write("nobody reads this")
    assert lost() == before + 1


def test_pipe_whose_reader_was_gone_from_the_beginning(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    before = lost()
    LineWriter(pipe[1]).write("nobody reads this")
    assert lost() == before + 1


def test_full_disk_costs_the_line_only() -> None:
    before = lost()
    with open("/dev/full", "wb") as full:
        LineWriter(full.fileno()).write("no space left")
    assert lost() == before + 1


def test_line_that_a_full_disk_cut_is_ended_once_there_is_space(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "log").open("wb") as file:
        writer = LineWriter(file.fileno())
        before = lost()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # a disk with 10 bytes
            writer.write("0123456")
            writer.write("cut in two")
            writer.write("dropped")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.write("after")
    assert (tmp_path / "log").read_text() == "0123456\ncut in two\nafter\n"
    assert lost() == before + 1


def test_descriptor_that_was_closed_costs_the_line_only(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    before = lost()
    LineWriter(pipe[1]).write("nowhere")
    assert lost() == before + 1


def test_terminal_without_a_reader_loses_lines() -> None:
    main, terminal = pty.openpty()
    try:
        assert fill(LineWriter(terminal)) > 0
    finally:
        os.close(main)
        os.close(terminal)


def test_socket_without_a_reader_loses_lines_and_breaks_none() -> None:
    reading, writing = socket.socketpair()
    with reading, writing:
        writer = LineWriter(writing.fileno())
        written = fill(writer)
        found = drain(reading.fileno())
        writer.write("after")
        found += drain(reading.fileno())
        assert found.decode().splitlines() == [*[LINE] * written, "after"]


def test_flags_of_a_shared_description_stay_as_they_were(pipe: tuple[int, int]) -> None:
    LineWriter(pipe[1]).write("line")
    assert os.get_blocking(pipe[1])


def test_text_that_is_no_unicode_is_written_escaped(writer: LineWriter, pipe: tuple[int, int]) -> None:
    writer.write("a\ud800b")
    assert drain(pipe[0]) == b"a\\ud800b\n"
