"""The user whom a call is about: the given one, or else the caller; with a scope, anybody."""

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from shared.contracts.scopes import Scope
from shared.http.callers import caller, guarded, listed_user, user_of
from shared.http.problems import ValidationFailed
from shared.http.routes import Route
from shared.identity.authenticator import OpenAuthenticator
from shared.identity.callers import OPEN, SIGNED_IN, Caller, Forbidden, InvalidToken

ALICE = Caller("alice")
OPERATOR = Caller("sue", {Scope.ORDERS_READ.value})


class Authenticator(OpenAuthenticator):
    """Knows one caller."""

    def __init__(self, who: Caller) -> None:
        self._who = who

    def known(self, header: str | None) -> Caller | None:  # noqa: ARG002 - as the protocol has it
        return self._who


async def called_by(who: Caller, headers: Any = ()) -> web.Request:
    """Return a request as a handler gets it."""
    found = []

    async def handler(request: web.Request) -> web.Response:
        found.append(request)
        return web.Response()

    route = Route("GET", "/", SIGNED_IN, handler, "", {})
    await guarded(route, Authenticator(who))(make_mocked_request("GET", "/", headers))
    return found[0]


@pytest.mark.parametrize(
    ("who", "given", "listed"),
    [
        (OPEN, None, None),
        (OPEN, "bob", "bob"),
        (ALICE, None, "alice"),
        (ALICE, "alice", "alice"),
        (OPERATOR, None, "sue"),
        (OPERATOR, "bob", "bob"),
    ],
)
async def test_things_of_the_given_user_or_else_of_the_caller_are_listed(
    who: Caller, given: str | None, listed: str | None
) -> None:
    request = await called_by(who)
    assert caller(request) is who
    assert listed_user(request, given, Scope.ORDERS_READ) == listed


async def test_things_of_another_user_need_the_scope() -> None:
    with pytest.raises(Forbidden):
        listed_user(await called_by(ALICE), "bob", Scope.ORDERS_READ)


async def test_call_about_a_user_needs_one_in_open_mode() -> None:
    with pytest.raises(ValidationFailed):
        user_of(await called_by(OPEN), None, Scope.ORDERS_READ)


async def test_two_authorization_headers_are_refused() -> None:
    with pytest.raises(InvalidToken):
        await called_by(ALICE, [("Authorization", "Bearer a"), ("Authorization", "Bearer b")])
