"""The calls of the operators' APIs. tests/contract/test_orderctl.py compares them with the OpenAPI documents."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from deploy.client.models import Body, Reply
from deploy.client.transport import Call

Participant = Literal["product", "coupon", "balance"]
EventType = Literal["order.placed.v1", "order.paid.v1", "order.expired.v1", "order.cancelled.v1", "order.refunded.v1"]


class Raw(Reply):
    """An answer as it came: a person reads it, or a script."""

    model_config = ConfigDict(extra="allow")

    def __getitem__(self, name: str) -> Any:
        """Return a member."""
        return (self.model_extra or {})[name]

    @property
    def members(self) -> Mapping[str, Any]:
        """Return all members."""
        return self.model_extra or {}


class By(Body):
    """Who acts, and why. With a token, the token says who."""

    actor: str | None
    reason: str


class Act(By):
    """The same; `dry_run` only asks what would be done."""

    dry_run: bool


class Repair(Act):
    """`restored`: the participants that were restored to an earlier time."""

    restored: Sequence[Participant]


class NewReplay(By):
    """Into which topic, and which events."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    topic: str
    order_id: UUID | None
    type: EventType | None
    start: datetime | None = Field(alias="from")
    end: datetime | None = Field(alias="to")


ORDER, RELAY = "order-admin", "relay-admin"
ANSWER: Mapping[int, type[Reply]] = {200: Raw}

SAGAS = Call(ORDER, "GET", "/admin/v1/sagas", ANSWER, query=frozenset({"state", "older_than_seconds"}))
SAGA = Call(ORDER, "GET", "/admin/v1/sagas/{id}", ANSWER)
VERSIONS = Call(ORDER, "GET", "/admin/v1/drain-status", ANSWER)
LEASES = Call(ORDER, "GET", "/admin/v1/leases", ANSWER)
SAGA_ACTS = Call(ORDER, "GET", "/admin/v1/acts", ANSWER)
AUDIT = Call(ORDER, "POST", "/admin/v1/audit", ANSWER)
# An act is not repeated when its answer is lost: it is recorded each time, and a guard may refuse the second one.
REPAIR = Call(ORDER, "POST", "/admin/v1/audit/repair", ANSWER, Repair, repeatable=False)
RETRY_SAGAS = Call(ORDER, "POST", "/admin/v1/sagas/retry", ANSWER, Act, repeatable=False)
ON_A_SAGA = {
    name: Call(ORDER, "POST", f"/admin/v1/sagas/{{id}}/{name}", ANSWER, Act, repeatable=False)
    for name in ("retry", "force", "resolve")
}
PARKED = Call(RELAY, "GET", "/admin/v1/parked", ANSWER)
PARKED_ACTS = Call(RELAY, "GET", "/admin/v1/acts", ANSWER)
RETRY_PARKED = Call(RELAY, "POST", "/admin/v1/parked/retry", ANSWER, Act, repeatable=False)
ON_AN_EVENT = {
    name: Call(RELAY, "POST", f"/admin/v1/parked/{{id}}/{name}", ANSWER, Act, repeatable=False)
    for name in ("retry", "skip", "redact")
}
REPLAYS = Call(RELAY, "GET", "/admin/v1/replays", ANSWER)
REPLAY = Call(RELAY, "GET", "/admin/v1/replays/{id}", ANSWER)
START_REPLAY = Call(RELAY, "POST", "/admin/v1/replays", {201: Raw}, NewReplay, repeatable=False)
ON_A_REPLAY = {
    name: Call(RELAY, "POST", f"/admin/v1/replays/{{id}}/{name}", ANSWER, By, repeatable=False)
    for name in ("cancel", "resume")
}
CALLS = (
    *(SAGAS, SAGA, VERSIONS, LEASES, SAGA_ACTS, AUDIT, REPAIR, RETRY_SAGAS, *ON_A_SAGA.values()),
    *(PARKED, PARKED_ACTS, RETRY_PARKED, *ON_AN_EVENT.values()),
    *(REPLAYS, REPLAY, START_REPLAY, *ON_A_REPLAY.values()),
)
