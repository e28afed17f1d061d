"""The operators' acts on sagas. One commit both changes the saga, guarded by its status, and records who acted and why.

retry      release the saga, so that the next sweep runs it again
force      RUNNING → COMPENSATING: undo a saga that can't continue; a payment's order is cancelled
resolve    COMPENSATING → COMPENSATED by hand, after the books were corrected by other means
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from services.order import store
from services.order.admin import store as admin_store
from services.order.domain import ForcedByOperator
from services.order.engine.transitions import TransitionRequest, Transitions
from services.order.product_shards import shard_of
from services.order.saga import VERSIONS_KNOWN, Command, Saga, Status, Transition, next_move, steps, undos
from services.order.timeline import timeline
from shared import operators
from shared.ids import uuid7
from shared.postgres.clocks import DatabaseClock
from shared.postgres.connections import Connection, Pool, Session
from shared.refusals import Refusal

LIST_MAX = 1000
RESOLUTION_SECONDS = 30.0  # far longer than a commit; if the commit never comes, the saga waits no longer than this


class SagaNotFound(Refusal):
    """There is no such saga."""

    slug = "saga-not-found"
    status = 404


class SagaNotInState(Refusal):
    """The saga is not in a state that allows this."""

    slug = "saga-not-in-state"
    status = 409


Who = operators.Who  # re-exported: every act takes one

State = Literal["RUNNING", "COMPENSATING", "stuck"]


async def list_sagas(pool: Pool, *, state: State | None, older_than_seconds: float) -> list[dict[str, Any]]:
    """Return the live sagas, oldest first. `state`: RUNNING, COMPENSATING, stuck or None for all."""
    async with pool.connection() as db:
        rows = await admin_store.list_live_sagas(db, older_than_seconds, LIST_MAX)
    return [
        dict(row) for row in rows if state is None or (row["stuck"] if state == "stuck" else row["status"] == state)
    ]


async def show(pool: Pool, id_: UUID) -> dict[str, Any]:
    """Return the newest saga for a saga's or order's id, with its order, timeline and the commands left."""
    async with pool.connection() as db:
        saga = await _find(db, id_)
        sagas = await store.list_sagas_of_order(db, saga.order.order_id)
    return {
        "saga_id": saga.saga_id,
        "kind": saga.kind,
        "version": saga.version,
        "status": saga.status,
        "target": saga.target,
        "remaining": remaining(saga),
        "order": saga.order.view(),
        "timeline": timeline([dict(row) for row in sagas]),
    }


def remaining(saga: Saga) -> list[str]:
    """Return, in order, the commands that a live saga may still send; repeated commands change nothing."""
    if not saga.status.live:
        return []
    if saga.status is Status.RUNNING:
        return [step.do for step in steps(saga)]
    return [step.undo for step in undos(saga)]


def require(act: str, saga: Mapping[str, Any]) -> None:
    """Raise SagaNotInState unless a saga, as `show` returned it, allows the act. The act itself checks again."""
    allowed = {
        "retry": (Status.RUNNING, Status.COMPENSATING),
        "force": (Status.RUNNING,),
        "resolve": (Status.COMPENSATING,),
    }[act]
    if saga["status"] not in allowed:
        states = " or ".join(allowed)
        raise SagaNotInState(f"Only a {states} saga allows it to {act}; saga {saga['saga_id']} is {saga['status']}.")
    if act != "retry" and saga["version"] not in VERSIONS_KNOWN:
        # The saga's definition determines the undos, and this build does not have that definition.
        raise SagaNotInState(f"Saga {saga['saga_id']} is of version {saga['version']}: use the build that knows it.")


async def retry(pool: Pool, ids: Sequence[UUID], who: Who) -> list[UUID]:
    """Release live sagas so that they are retried now; return them."""
    async with pool.transaction() as db:
        rows = await admin_store.release_sagas(db, ids)
        for row in rows:
            await _record(db, who, "retry", row["order_id"], row["saga_id"])
    return [row["saga_id"] for row in rows]


async def force(pool: Pool, id_: UUID, who: Who) -> UUID:
    """Move a RUNNING saga to COMPENSATING. Raises SagaNotFound or SagaNotInState."""
    problem = ForcedByOperator(f"An operator had the order undone: {who.reason}").problem()
    async with pool.transaction() as db:
        saga = await _find(db, id_)
        row = await admin_store.force_compensation(db, saga.saga_id, problem)
        if row is None:
            raise SagaNotInState(f"Only a RUNNING saga can be forced; this one is {saga.status}.")
        await _record(db, who, "force", row["order_id"], row["saga_id"])
    return saga.saga_id


async def resolve(pool: Pool, session: Session, id_: UUID, who: Who) -> UUID:
    """End a COMPENSATING saga as if its undos had been acknowledged. Raises SagaNotFound or SagaNotInState.

    The operator is responsible for the books. The act takes the saga under a lease, so that no sweep takes it between
    the two commits. If this process dies between them, the lease expires and the saga continues.
    """
    operator = uuid7()
    async with pool.transaction() as db:
        await store.renew_lease(db, operator, RESOLUTION_SECONDS)
        saga = await _find(db, id_)
        row = await admin_store.take_for_resolution(db, saga.saga_id, operator)
        if row is None:
            raise SagaNotInState(f"Only a COMPENSATING saga can be resolved; this one is {saga.status}.")
        await _record(db, who, "resolve", row["order_id"], row["saga_id"], {"left": remaining(saga)})
    saga = replace(saga, undone=frozenset(step.undo for step in undos(saga)))
    move = next_move(saga)
    assert isinstance(move, Transition)
    entry = {"at": datetime.now(UTC), "step": "resolve", "outcome": "by hand", "detail": who.reason}
    (changed,) = await Transitions(session, DatabaseClock(), operator).commit([TransitionRequest(saga, move, [entry])])
    async with pool.connection() as db:
        await store.give_lease_up(db, operator)
    if changed is None or isinstance(changed, BaseException):
        raise SagaNotInState("Another process ended or took the saga in the meantime.")
    return saga.saga_id


async def list_acts(pool: Pool, limit: int) -> list[dict[str, Any]]:
    """Return the newest acts."""
    async with pool.connection() as db:
        return [dict(row) for row in await admin_store.list_acts(db, limit)]


async def drain_status(pool: Pool) -> list[dict[str, Any]]:
    """Return, per version of the saga definition, the number of live sagas and whether this build knows the version."""
    async with pool.connection() as db:
        rows = await admin_store.count_live_by_version(db)
    return [{**dict(row), "known": row["version"] in VERSIONS_KNOWN} for row in rows]


async def list_leases(pool: Pool) -> list[dict[str, Any]]:
    """Return which process has which lease, and how many live sagas; those without a lease last."""
    async with pool.connection() as db:
        return [dict(row) for row in await admin_store.list_leases(db, LIST_MAX)]


async def record_repair(pool: Pool, who: Who, command: Command) -> None:
    """Record that an orphan is about to be released."""
    async with pool.connection() as db:
        await _record(db, who, "repair", UUID(command.order_id), None, shard_of(command) | command.wire())


async def _find(db: Connection, id_: UUID) -> Saga:
    sagas = await admin_store.find_sagas(db, id_)
    if not sagas:
        raise SagaNotFound(f"There is no saga or order {id_} with a saga.")
    found = await store.get_saga(db, sagas[-1])
    assert found is not None
    return found[0]


async def _record(
    db: Connection, who: Who, act: str, order_id: UUID, saga_id: UUID | None, detail: dict[str, Any] | None = None
) -> None:
    await admin_store.record_act(db, who.actor, act, order_id, saga_id, who.reason, detail or {})
