"""When the client repeats a call, and how long it waits before."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from deploy.client.problems import UnexpectedAnswer, problem
from deploy.client.retries import Deadline, Policy, is_temporary, may_have_acted, seconds_of
from deploy.client.transport import segment


def answered(status: int, slug: str = "x") -> bool:
    """Return whether an answer is temporary; a problem and another answer of the same status agree."""
    return is_temporary(problem({"type": f"/problems/{slug}", "status": status}))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_answers_are_repeated(status: int) -> None:
    assert answered(status)
    assert is_temporary(UnexpectedAnswer(status, "<html>"))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 501])
def test_final_answers_are_not_repeated(status: int) -> None:
    assert not answered(status)
    assert not is_temporary(UnexpectedAnswer(status, "<html>"))


def test_a_request_in_progress_is_repeated() -> None:
    assert answered(409, "idempotency-in-progress")


@pytest.mark.parametrize(
    ("status", "acted"), [(500, True), (503, True), (502, True), (504, True), (429, False), (408, False)]
)
def test_only_answers_of_servers_in_trouble_leave_the_effect_open(status: int, acted: bool) -> None:
    assert may_have_acted(problem({"type": "/problems/x", "status": status})) is acted


@pytest.mark.parametrize("attempt", [0, 1, 5, 10_000])
def test_pauses_grow_vary_and_stay_bounded(attempt: int) -> None:
    policy = Policy(first_pause_seconds=0.1, longest_pause_seconds=2)
    longest = min(2, 0.1 * 2 ** min(attempt, 10))
    pauses = [policy.pause(attempt) for _ in range(200)]
    assert all(longest / 2 <= pause <= longest for pause in pauses)
    assert max(pauses) - min(pauses) > longest / 4


def test_pause_is_never_shorter_than_the_service_asks_for() -> None:
    pauses = [Policy().pause(0, retry_after=3) for _ in range(200)]
    assert all(3 < pause <= 3.1 for pause in pauses)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2),
        (" 0 ", 0),
        ("9" * 5000, math.inf),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_nothing(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header) == seconds


@pytest.mark.parametrize(("ahead", "least", "most"), [(60, 57, 60), (-60, 0, 0)])
def test_retry_after_may_be_a_date(ahead: int, least: float, most: float) -> None:
    header = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    seconds = seconds_of(header)
    assert seconds is not None
    assert least <= seconds <= most


def test_deadline_in_the_past_leaves_nothing() -> None:
    assert Deadline(-1).left() == 0
    assert 0 < Deadline(5).left() <= 5


@pytest.mark.parametrize(
    ("id_", "path"), [("a-b_c~1", "a-b_c~1"), ("a/b.c", "a%2Fb%2Ec"), ("é", "%C3%A9"), ("e\u0301 %", "e%CC%81%20%25")]
)
def test_ids_are_encoded_in_paths_as_the_contract_asks(id_: str, path: str) -> None:
    assert segment(id_) == path
