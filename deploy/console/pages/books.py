"""Books: the audit's last pass, what live sagas hold, an audit now with its findings, and the repair of orphans."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from aiohttp import web

from deploy.console.acts import REASON_MAX, actor, is_complete, remembered
from deploy.console.figures.readings import Reading, Readings
from deploy.console.jobs import Job
from deploy.console.routes import Page, Route
from deploy.console.visit import Visit
from deploy.orderctl import calls, verdict
from deploy.orderctl.platform import LONG_CALL
from shared.contracts.scopes import Scope

LAST_PASS = "audit_last_pass_timestamp_seconds"  # noqa: S105 - no password
SHOWN = 200  # findings
PARTICIPANTS = get_args(calls.Participant)
AT_RISK = ("sagas", "units", "coupons", "amount")
AUDIT, TRIAL, REPAIR = "audit", "trial", "repair"
TRIAL_SECONDS = 900.0  # a repair looks again: the older its trial, the more of what it sends has nobody seen


async def _show(visit: Visit) -> web.Response:
    job = visit.parts.jobs.last
    return visit.page(
        "books.html",
        last=last_pass(_readings(visit)),
        risk=value_at_risk(_readings(visit)),
        job=job,
        findings=_findings(job),
        trial=_may_follow(job),
        may_act=visit.may(Scope.OPS),
        busy=bool(visit.request.query.get("busy")),
    )


def _readings(visit: Visit) -> Sequence[Reading]:
    return [reading for replica, reading in visit.parts.sampler.readings.items() if replica.service == "order"]


def auditor(readings: Sequence[Reading]) -> Reading | None:
    """Return the replica that audits: the one with the newest pass, since others keep their own last one."""
    passes = [(at, reading) for reading in readings if (at := Readings([reading]).total(LAST_PASS))]
    return max(passes, key=lambda one: one[0])[1] if passes else None


def last_pass(readings: Sequence[Reading]) -> Mapping[str, Any] | None:
    """Return the newest pass of the audit."""
    newest = auditor(readings)
    if newest is None:
        return None
    found = {
        dict(key.labels)["kind"]: int(value)
        for key, value in newest.now.samples.items()
        if key.name == "audit_violations" and value
    }
    worth = {
        dict(key.labels)["participant"]: value
        for key, value in newest.now.samples.items()
        if key.name == "audit_orphans_worth" and value
    }
    at = Readings([newest]).total(LAST_PASS)
    return {"at": at, "seconds": Readings([newest]).total("audit_pass_seconds"), "found": found, "worth": worth}


def value_at_risk(readings: Sequence[Reading]) -> Mapping[str, float | None] | None:
    """Return what live sagas hold, as the process that audits has measured it; None if none has."""
    newest = auditor(readings)
    if newest is None:
        return None
    known = Readings([newest])
    risk = {what: known.highest("value_at_risk", what=what) for what in AT_RISK}
    return {**risk, "oldest": known.highest("value_at_risk_oldest_seconds")}


def _findings(job: Job | None) -> list[dict[str, Any]]:
    """Return the findings of an audit as rows of a table."""
    if job is None or job.name != AUDIT or job.result is None:
        return []
    return [{**verdict.row(one), "order_id": one["order_id"]} for one in job.result["findings"][:SHOWN]]


def _may_follow(job: Job | None) -> Job | None:
    """Return the job if it is a trial that may still be confirmed."""
    if job is None or job.name != TRIAL or job.result is None or job.ended_at is None:
        return None
    return job if time.time() - job.ended_at < TRIAL_SECONDS else None


def _by(visit: Visit) -> str:
    return visit.subject or visit.form.get("by", "")


def _begun(visit: Visit, *, begun: bool) -> web.Response:
    return remembered(visit, visit.redirect("/books#job" if begun else "/books?busy=1"))


async def _audit(visit: Visit) -> web.Response:
    platform = visit.platform(LONG_CALL)

    async def work() -> Mapping[str, Any]:
        return (await platform.admin(calls.AUDIT)).members

    return _begun(visit, begun=visit.parts.jobs.begin(Job(AUDIT, _by(visit)), work()))


async def _ask(visit: Visit) -> web.Response:
    return _form(visit)


def _form(visit: Visit, status: int = 200) -> web.Response:
    return visit.page("repair.html", status, participants=PARTICIPANTS, missing=status == 400, reason_max=REASON_MAX)


async def _try(visit: Visit) -> web.Response:
    """Begin a dry run of the repair, which its page then asks to confirm."""
    if not is_complete(visit):
        return _form(visit, 400)
    restored = [name for name in PARTICIPANTS if visit.form.get(f"restored_{name}")]
    about = {"reason": visit.form["reason"], "actor": actor(visit), "restored": restored}
    return _begin_repair(visit, TRIAL, about)


async def _repair(visit: Visit) -> web.Response:
    """Begin the repair that the last dry run has shown, and no other."""
    trial = _may_follow(visit.parts.jobs.last)
    if trial is None or trial.id_ != visit.form.get("trial"):
        raise web.HTTPConflict
    return _begin_repair(visit, REPAIR, trial.about)


def _begin_repair(visit: Visit, name: str, about: Mapping[str, Any]) -> web.Response:
    platform = visit.platform(LONG_CALL)
    body = calls.Repair(**about, dry_run=name == TRIAL)

    async def work() -> Mapping[str, Any]:
        return (await platform.admin(calls.REPAIR, body=body)).members

    job = Job(name, about["actor"] or _by(visit), about)
    return _begun(visit, begun=visit.parts.jobs.begin(job, work()))


PAGE = Page(
    "books",
    "/books",
    Scope.OPS_READ,
    (
        Route("GET", "/books", _show, Scope.OPS_READ),
        Route("POST", "/books/audit", _audit, Scope.OPS),
        Route("GET", "/books/repair", _ask, Scope.OPS),
        Route("POST", "/books/repair", _try, Scope.OPS),
        Route("POST", "/books/repair/confirmed", _repair, Scope.OPS),
    ),
)
