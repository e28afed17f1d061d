"""The caller of a request, for its handler; and whom a call is about."""

from aiohttp import web

from shared.contracts.scopes import Scope
from shared.http.problems import ValidationFailed
from shared.http.routes import Handler, Route
from shared.identity.authenticator import Authenticator
from shared.identity.callers import INTERNAL, PUBLIC, Caller, Forbidden, InvalidToken

_CALLER = web.RequestKey("caller", Caller)


def guarded(route: Route, authenticator: Authenticator) -> Handler:
    """Return the route's handler behind its policy: it is not called for a caller whom the policy excludes."""
    if route.policy is PUBLIC:
        return route.handler
    scope = route.policy if isinstance(route.policy, Scope) else None

    async def handle(request: web.Request) -> web.Response:
        given = request.headers.getall("Authorization", ())
        if len(given) > 1:  # another reader of the request might believe the other one
            raise InvalidToken
        header = given[0] if given else None
        if route.policy is INTERNAL:
            known = authenticator.internal(header, request.get_extra_info("peercert"))
        else:
            known = authenticator.known(header) or await authenticator.authenticate(header)
        if scope is not None:
            known.require(scope)
        request[_CALLER] = known
        return await route.handler(request)

    return handle


def caller(request: web.Request) -> Caller:
    """Return who sent the request. Only for routes whose policy asks for it."""
    return request[_CALLER]


def listed_user(request: web.Request, given: str | None, scope: Scope) -> str | None:
    """Return the user whose things are listed: the given one, or else the caller; None, in open mode only, for all.

    Raise Forbidden if it is another user and the caller lacks `scope`.
    """
    return None if given is None and caller(request).subject is None else user_of(request, given, scope)


def user_of(request: web.Request, given: str | None, scope: Scope, pointer: str = "/user_id") -> str:
    """Return the user whom a call is about: the given one, or else the caller.

    Raise Forbidden if it is another user and the caller lacks `scope`. Raise ValidationFailed, for the field at
    `pointer`, if neither is known.
    """
    who = caller(request)
    user_id = given or who.subject
    if user_id is None:
        raise ValidationFailed([{"pointer": pointer, "message": "Field required"}])
    if not who.acts_for(user_id, scope):
        raise Forbidden(scope.value)
    return user_id
