"""Signing in with an access token, and signing out."""

from aiohttp import web

from deploy.console.routes import Route
from deploy.console.sessions import new_id
from deploy.console.visit import Visit, inner_path
from shared.identity.callers import Unauthenticated


async def _show(visit: Visit) -> web.Response:
    back = inner_path(visit.request.query.get("next", "/"))
    if visit.signed_in:
        return visit.redirect(back)
    return visit.page("sign_in.html", back=back, wrong=False)


async def _sign_in(visit: Visit) -> web.Response:
    back = inner_path(visit.form.get("next", "/"))
    if visit.parts.is_open:
        return visit.redirect(back)
    # As it stands behind the name of the header, too: people copy whole lines.
    token = visit.form.get("access_token", "").removeprefix("Bearer ").strip()
    try:
        caller = await visit.parts.authenticator.authenticate(f"Bearer {token}")
    except Unauthenticated:
        return visit.page("sign_in.html", 401, back=back, wrong=True)
    if visit.session is not None:
        visit.parts.sessions.end(visit.session.id_)
    visit.visitor = visit.parts.sessions.begin(token, caller).id_
    return visit.redirect(back)


async def _sign_out(visit: Visit) -> web.Response:
    if visit.session is not None:
        visit.parts.sessions.end(visit.session.id_)
    visit.visitor = new_id()
    return visit.redirect("/sign-in")


ROUTES = (
    Route("GET", "/sign-in", _show, None),
    Route("POST", "/sign-in", _sign_in, None),
    Route("POST", "/sign-out", _sign_out, None),
)
