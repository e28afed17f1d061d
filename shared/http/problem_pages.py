"""The pages of the problem types: each `type` of a problem is the path of its page, at every listener."""

import re
from collections.abc import Mapping, Sequence

from aiohttp import web

from shared.contracts.problem_types import CATALOGUE
from shared.contracts.problem_types.problem_type import ProblemType
from shared.encoding import encode
from shared.http.pages import HEADERS, marked_up, page
from shared.http.problems import NotFound

INDEX = "/problems"
_HEADERS = {**HEADERS, "Vary": "Accept"}


async def show(request: web.Request) -> web.Response:
    """GET /problems/{slug}."""
    found = CATALOGUE.get(request.match_info["slug"])
    if found is None:
        raise NotFound(f"There is no such problem type; {INDEX} lists them.")
    return _answer(request, found.slug, _description(found), _data(found))


async def show_all(request: web.Request) -> web.Response:
    """GET /problems."""
    data = {"items": [_data(one) for one in CATALOGUE.values()]}
    return _answer(request, "Problem types", _list(list(CATALOGUE.values())), data)


PAGES = {INDEX: show_all, f"{INDEX}/{{slug}}": show}


def _answer(request: web.Request, title: str, content: str, data: Mapping[str, object]) -> web.Response:
    """Return the page, or its data for a client that prefers JSON."""
    if prefers_json(",".join(request.headers.getall("Accept", ()))):
        return web.Response(body=encode(data), content_type="application/json", headers=_HEADERS)
    return web.Response(text=page(title, content), content_type="text/html", headers=_HEADERS)


def prefers_json(accept: str) -> bool:
    """Return whether an `Accept` header prefers JSON to HTML (RFC 9110, section 12.5.1)."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        weights[media_range] = _weight(parameters)

    def weight_of(kind: str, media_type: str) -> float:
        return weights.get(media_type, weights.get(f"{kind}/*", weights.get("*/*", 0.0)))

    return weight_of("application", "application/json") > weight_of("text", "text/html")


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", value.strip()) else 0.0
    return 1.0


def _data(one: ProblemType) -> dict[str, object]:
    return {
        "type": one.path,
        "status": one.status,
        "meaning": one.meaning,
        "members": re.findall(r"`(\w+)`", one.members),
        "retry": one.retry.value,
        "retry_advice": one.retry.advice,
        "remedy": one.remedy,
    }


def _description(one: ProblemType) -> str:
    parts = [
        ("Status", str(one.status)),
        ("When it occurs", one.meaning[0].upper() + one.meaning[1:] + "."),
        ("Further members of the problem", one.members),
        ("Does a retry help?", one.retry.advice),
        ("What to do", one.remedy),
    ]
    terms = "\n".join(f"<dt>{term}</dt><dd>{marked_up(text)}</dd>" for term, text in parts if text)
    return f'<dl>\n{terms}\n</dl>\n<p><a href="{INDEX}">All problem types</a></p>'


def _list(types: Sequence[ProblemType]) -> str:
    rows = "\n".join(
        f'<tr><td><a href="{one.path}"><code>{one.slug}</code></a></td><td>{one.status}</td>'
        f"<td>{marked_up(one.meaning)}</td></tr>"
        for one in types
    )
    return f"<table>\n<tr><th>type</th><th>status</th><th>meaning</th></tr>\n{rows}\n</table>"
