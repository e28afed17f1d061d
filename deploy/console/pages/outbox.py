"""Outbox: what waits to be published, parked events and the acts on them, and replays with their progress."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, cast, get_args
from uuid import UUID

from aiohttp import web

from deploy.console.acts import REASON_MAX, Acts, actor, is_complete, remembered
from deploy.console.figures.readings import Readings
from deploy.console.routes import ID, Page, Route
from deploy.console.visit import Visit
from deploy.orderctl import calls
from shared.contracts.scopes import Scope

SHOWN_ACTS = 20
SHOWN_REPLAYS = 20
EVENT_TYPES = get_args(calls.EventType)
ON_A_REPLAY: Mapping[str, str] = {"RUNNING": "cancel", "CANCELLED": "resume", "FAILED": "resume"}
WAITING = ("relay_pending_events", "relay_oldest_unpublished_seconds", "relay_parked_events")


async def _matching(visit: Visit) -> Sequence[str]:
    """Return the parked events that hold their order's others back: an act on one concerns them all."""
    items = (await visit.platform().admin(calls.PARKED))["items"]
    return [str(event["event_id"]) for event in items if event["first"]]


def _concerned(done: calls.Raw) -> Sequence[str]:
    return [f"{event['order_id']} {event['sequence']} {event['type']}" for event in done["events"]]


ACTS = Acts(
    "outbox",
    calls.ON_AN_EVENT,
    _concerned,
    ("skip", "redact"),
    _matching,
    on_all=("retry",),
    shows_one=False,
)


async def _show(visit: Visit) -> web.Response:
    platform = visit.platform()
    parked, recorded, replays = await asyncio.gather(
        platform.admin(calls.PARKED), platform.admin(calls.PARKED_ACTS), platform.admin(calls.REPLAYS)
    )
    done = visit.request.query.get("done")
    newest = replays["items"][:SHOWN_REPLAYS]
    return visit.page(
        "outbox.html",
        shards=shards(visit),
        parked=parked["items"],
        recorded=recorded["items"][:SHOWN_ACTS],
        replays=[(replay, share(replay), ON_A_REPLAY.get(replay["state"])) for replay in newest],
        acts=list(ACTS.on_one),
        done=done if done in ACTS.on_one else None,
        may_act=visit.may(Scope.OPS),
    )


def shards(visit: Visit) -> list[tuple[str, list[float | None]]]:
    """Return the shards with what waits in each: every relay measures all of them."""
    sampler = visit.parts.sampler
    readings = Readings([reading for replica, reading in sampler.readings.items() if replica.service == "relay"])
    found = {
        dict(key.labels)["shard"]
        for reading in readings.replicas
        for key in reading.now.samples
        if key.name == WAITING[0]
    }
    return [(shard, [readings.highest(name, shard=shard) for name in WAITING]) for shard in sorted(found, key=int)]


def share(replay: Mapping[str, Any]) -> float:
    """Return how far a replay is, from 0 to 1, by its position in the outbox."""
    if replay["state"] == "DONE" or replay["up_to"] <= 0:
        return 1.0
    return min(1.0, max(0.0, float(replay["position"]) / float(replay["up_to"])))


async def _ask_for_replay(visit: Visit) -> web.Response:
    return _replay_form(visit)


def _replay_form(visit: Visit, wrong: str = "", status: int = 200) -> web.Response:
    return visit.page("replay.html", status, types=EVENT_TYPES, wrong=wrong, reason_max=REASON_MAX)


async def _start_replay(visit: Visit) -> web.Response:
    if not is_complete(visit):
        return _replay_form(visit, "act.missing", 400)
    try:
        wanted = new_replay(visit.form, actor(visit))
    except ValueError as error:
        return _replay_form(visit, f"outbox.wrong.{error}", 400)
    await visit.platform().admin(calls.START_REPLAY, body=wanted)
    return remembered(visit, visit.redirect("/outbox#replays"))


def new_replay(form: Mapping[str, str], by: str | None) -> calls.NewReplay:
    """Return the replay that a form asks for. Raises ValueError with the name of the field that is wrong."""
    chosen = form.get("type") or None
    if chosen is not None and chosen not in EVENT_TYPES:
        raise ValueError("type")
    order_id: UUID | None = None
    if form.get("order_id"):
        try:
            order_id = UUID(form["order_id"])
        except ValueError:
            raise ValueError("order_id") from None
    return calls.NewReplay(
        actor=by,
        reason=form["reason"],
        topic=form.get("topic", ""),
        order_id=order_id,
        type=cast("calls.EventType | None", chosen),
        start=_time(form, "from"),
        end=_time(form, "to"),
    )


def _time(form: Mapping[str, str], name: str) -> datetime | None:
    """Return a time of a form, which is in UTC if it has no offset. Raises ValueError."""
    if not form.get(name):
        return None
    with suppress(ValueError):
        at = datetime.fromisoformat(form[name])
        return at if at.tzinfo is not None else datetime.fromisoformat(f"{form[name]}+00:00")
    raise ValueError(name)


async def _ask_on_replay(name: str, visit: Visit) -> web.Response:
    return await _replay_act(visit, name)


async def _replay_act(visit: Visit, name: str, status: int = 200) -> web.Response:
    replay = await visit.platform().admin(calls.REPLAY, id_=visit.request.match_info["id"])
    return visit.page(
        "replay_act.html", status, name=name, replay=replay.members, missing=status == 400, reason_max=REASON_MAX
    )


async def _act_on_replay(name: str, visit: Visit) -> web.Response:
    if not is_complete(visit):
        return await _replay_act(visit, name, 400)
    body = calls.By(actor=actor(visit), reason=visit.form["reason"])
    await visit.platform().admin(calls.ON_A_REPLAY[name], body=body, id_=visit.request.match_info["id"])
    return remembered(visit, visit.redirect("/outbox#replays"))


PAGE = Page(
    "outbox",
    "/outbox",
    Scope.OPS_READ,
    (
        Route("GET", "/outbox", _show, Scope.OPS_READ),
        Route("GET", "/outbox/replays/new", _ask_for_replay, Scope.OPS),
        Route("POST", "/outbox/replays/new", _start_replay, Scope.OPS),
        *(
            Route("GET", f"/outbox/replays/{{id:{ID}}}/{name}", partial(_ask_on_replay, name), Scope.OPS)
            for name in calls.ON_A_REPLAY
        ),
        *(
            Route("POST", f"/outbox/replays/{{id:{ID}}}/{name}", partial(_act_on_replay, name), Scope.OPS)
            for name in calls.ON_A_REPLAY
        ),
        *ACTS.routes,
    ),
)
