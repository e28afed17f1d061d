"""Sagas: those under way by state and age, one with its remaining steps, and the acts on them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from deploy.console.acts import BULK_MAX, Acts
from deploy.console.routes import ID, Page, Route
from deploy.console.visit import Visit
from deploy.orderctl import calls
from shared.contracts.scopes import Scope

STATES = ("RUNNING", "COMPENSATING", "stuck")
AGES = (0, 10, 60, 300, 3600)  # seconds
SHOWN_ACTS = 20
POSSIBLE: Mapping[str, Sequence[str]] = {"RUNNING": ("retry", "force"), "COMPENSATING": ("retry", "resolve")}


def chosen(given: Mapping[str, str]) -> tuple[str | None, int]:
    """Return the state and the age in seconds of a filter; what it does not know counts as not given."""
    state, older = given.get("state"), given.get("older", "")
    seconds = int(older) if older in map(str, AGES) else 0
    return state if state in STATES else None, seconds


async def _listed(visit: Visit, given: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
    state, older = chosen(given)
    answer = await visit.platform().admin(calls.SAGAS, state=state, older_than_seconds=older or None)
    items: Sequence[Mapping[str, Any]] = answer["items"]
    return items


async def _matching(visit: Visit) -> Sequence[str]:
    return [str(saga["saga_id"]) for saga in await _listed(visit, visit.form)]


ACTS = Acts(
    "sagas",
    calls.ON_A_SAGA,
    lambda done: done["sagas"],
    ("force", "resolve"),
    _matching,
    on_all=tuple(calls.ON_A_SAGA),
    shows_one=True,
)


async def _show_all(visit: Visit) -> web.Response:
    found, recorded = await asyncio.gather(_listed(visit, visit.request.query), visit.platform().admin(calls.SAGA_ACTS))
    state, older = chosen(visit.request.query)
    return visit.page(
        "sagas.html",
        sagas=found,
        recorded=recorded["items"][:SHOWN_ACTS],
        state=state,
        older=older,
        states=STATES,
        ages=AGES,
        bulk_max=BULK_MAX,
        acts=ACTS.on_all,
        may_act=visit.may(Scope.OPS),
    )


async def _show_one(visit: Visit) -> web.Response:
    saga = (await visit.platform().admin(calls.SAGA, id_=visit.request.match_info["id"])).members
    possible = POSSIBLE.get(saga["status"], ()) if visit.may(Scope.OPS) else ()
    done = visit.request.query.get("done")
    return visit.page("saga.html", saga=saga, possible=possible, done=done if done in ACTS.on_one else None)


PAGE = Page(
    "sagas",
    "/sagas",
    Scope.OPS_READ,
    (
        Route("GET", "/sagas", _show_all, Scope.OPS_READ),
        Route("GET", f"/sagas/{{id:{ID}}}", _show_one, Scope.OPS_READ),
        *ACTS.routes,
    ),
)
