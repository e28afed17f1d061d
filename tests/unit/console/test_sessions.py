"""Sessions end with their token, are bounded, and have ids of their own; forms have a token of their visitor."""

import pytest

from deploy.console import sessions as module
from deploy.console.sessions import Sessions, new_id
from shared.contracts.scopes import Scope
from shared.identity.callers import Caller


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def caller(expires_at: float = 2000.0) -> Caller:
    return Caller("alice", frozenset({"ops:read"}), expires_at)


def test_session_is_found_until_its_token_expires(clock: Clock) -> None:
    sessions = Sessions(clock)
    session = sessions.begin("token", caller())
    clock.now = 1999.9
    assert sessions.find(session.id_) is session
    clock.now = 2000.0
    assert sessions.find(session.id_) is None


def test_session_that_was_ended_is_not_found(clock: Clock) -> None:
    sessions = Sessions(clock)
    session = sessions.begin("token", caller())
    sessions.end(session.id_)
    sessions.end(session.id_)
    assert sessions.find(session.id_) is None


@pytest.mark.parametrize("id_", [None, "", "made-up"])
def test_unknown_id_has_no_session(clock: Clock, id_: str | None) -> None:
    assert Sessions(clock).find(id_) is None


def test_sessions_are_bounded_and_the_oldest_ends_first(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS_MAX", 2)
    sessions = Sessions(clock)
    first, second, third = (sessions.begin(str(number), caller()) for number in range(3))
    assert sessions.find(first.id_) is None
    assert sessions.find(second.id_) is second
    assert sessions.find(third.id_) is third


def test_expired_sessions_make_room_first(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS_MAX", 2)
    sessions = Sessions(clock)
    kept = sessions.begin("kept", caller(9000.0))
    sessions.begin("short", caller(1500.0))
    clock.now = 1500.0  # its end
    sessions.begin("new", caller(9000.0))
    assert sessions.find(kept.id_) is kept


def test_scopes_are_those_of_the_token(clock: Clock) -> None:
    session = Sessions(clock).begin("token", caller())
    assert session.has(Scope.OPS_READ)
    assert not session.has(Scope.OPS)


def test_neither_token_nor_id_is_in_the_text_of_a_session(clock: Clock) -> None:
    session = Sessions(clock).begin("a-secret-token", caller())
    assert "a-secret-token" not in repr(session)
    assert session.id_ not in repr(session)


def test_form_token_is_of_one_visitor_and_one_process(clock: Clock) -> None:
    sessions, others = Sessions(clock), Sessions(clock)
    visitor = new_id()
    token = sessions.form_token(visitor)
    assert sessions.is_form_token(visitor, token)
    assert not sessions.is_form_token(new_id(), token)
    assert not sessions.is_form_token(None, token)
    assert not sessions.is_form_token(visitor, "")
    assert not sessions.is_form_token(visitor, "\u00e9")
    assert not others.is_form_token(visitor, token)


def test_ids_differ_and_are_long() -> None:
    assert len({new_id() for _ in range(100)}) == 100
    assert len(new_id()) >= 43
