"""A visitor's language and colours, kept in cookies."""

from aiohttp import web

from deploy.console.routes import Route
from deploy.console.texts import LANGUAGES
from deploy.console.visit import THEMES, YEAR_SECONDS, Visit, inner_path


async def _choose(visit: Visit) -> web.Response:
    response = visit.redirect(inner_path(visit.form.get("next", "/")))
    for name, allowed in (("theme", THEMES), ("language", LANGUAGES)):
        if visit.form.get(name) in allowed:
            visit.set_cookie(response, name, visit.form[name], YEAR_SECONDS)
    return response


ROUTES = (Route("POST", "/preferences", _choose, None),)
