"""A request's ids are used if they are well-formed, and generated otherwise."""

import re

import pytest

from shared.process import trace
from shared.process.trace import Trace, from_headers

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_trace_of_the_caller_is_used_and_passed_on() -> None:
    headers = {"X-Request-Id": "abc-1", "traceparent": PARENT}
    taken = from_headers(headers)
    assert taken.headers() == headers
    assert taken.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_missing_ids_are_created_anew_each_time() -> None:
    first, second = from_headers({}), from_headers({})
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first.traceparent)
    assert first.request_id != second.request_id
    assert first.trace_id != second.trace_id


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "a\nb", "a\n", "ü", "\x7f"])
def test_a_request_id_that_could_break_a_log_or_a_header_is_replaced(request_id: str) -> None:
    assert from_headers({"X-Request-Id": request_id}).request_id != request_id


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
    assert from_headers({"traceparent": traceparent}).traceparent != traceparent


def test_log_records_get_the_current_trace_but_keep_their_own_fields() -> None:
    token = trace.current.set(Trace("r1", PARENT))
    try:
        assert trace.log_fields(None, "info", {"request_id": "own"}) == {
            "request_id": "own",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }
    finally:
        trace.current.reset(token)
    assert trace.log_fields(None, "info", {}) == {}
