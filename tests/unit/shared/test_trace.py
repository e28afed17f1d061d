"""A request's marks are taken over when they are well-formed, and made when they aren't."""

import re

import pytest

from shared import trace
from shared.trace import Trace, take_over

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_caller_s_marks_are_taken_over_and_passed_on() -> None:
    headers = {"X-Request-Id": "abc-1", "traceparent": PARENT}
    taken = take_over(headers)
    assert taken.headers() == headers
    assert taken.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_what_is_missing_is_made_anew_each_time() -> None:
    first, second = take_over({}), take_over({})
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first.traceparent)
    assert first.request_id != second.request_id
    assert first.trace_id != second.trace_id


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "a\nb", "a\n", "ü", "\x7f"])
def test_a_request_id_that_could_break_a_log_or_a_header_is_replaced(request_id: str) -> None:
    assert take_over({"X-Request-Id": request_id}).request_id != request_id


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "\n",
        PARENT + "-00",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
    ],
)
def test_a_traceparent_that_breaks_the_standard_is_replaced(traceparent: str) -> None:
    assert take_over({"traceparent": traceparent}).traceparent != traceparent


def test_log_records_carry_the_current_marks_but_keep_their_own() -> None:
    token = trace.current.set(Trace("r1", PARENT))
    try:
        assert trace.log_fields(None, "info", {"request_id": "own"}) == {
            "request_id": "own",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }
    finally:
        trace.current.reset(token)
    assert trace.log_fields(None, "info", {}) == {}
