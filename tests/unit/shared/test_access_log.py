"""Which of a service's answers are logged."""

import time

import pytest
from structlog.testing import capture_logs

from shared.http.server import OVERLOAD_LOG_SECONDS, HttpServer
from shared.identity.authenticator import OpenAuthenticator
from shared.process import logs, trace
from shared.process.settings import ServiceSettings


@pytest.mark.parametrize(("level", "logged"), [("all", [200, 404, 500, 503]), ("errors", [500, 503]), ("off", [])])
def test_answers_are_logged_as_the_setting_says(level: str, logged: list[int]) -> None:
    assert statuses_logged(server(level), 200, 404, 500, 503) == logged


def test_overload_is_logged_once_a_second_and_other_errors_always(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    overloaded = server("errors")
    assert statuses_logged(overloaded, 503, 503, 500, 500, 503) == [503, 500, 500]
    now += OVERLOAD_LOG_SECONDS
    assert statuses_logged(overloaded, 503, 503) == [503]


@pytest.mark.parametrize("level", ["errors", "off"])
def test_every_answer_is_logged_while_debugging(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setattr(logs, "is_debugging", lambda: True)
    assert statuses_logged(server(level), 200, 503, 503) == [200, 503, 503]


def server(level: str) -> HttpServer:
    settings = {"port": 1, "database_url": "postgresql://nowhere", "access_log": level}
    return HttpServer("x", "x", ServiceSettings.model_validate(settings), OpenAuthenticator(), [], {})


def statuses_logged(server: HttpServer, *statuses: int) -> list[int]:
    """Return the statuses that are logged of these answers."""
    with capture_logs() as entries:
        for status in statuses:
            server._take_note(trace.from_headers({}), "GET", "/x", status, 0.0)
    return [entry["status"] for entry in entries]
