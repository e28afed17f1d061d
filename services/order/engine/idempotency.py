"""Idempotent answers: a key is claimed by the commit that starts an operation and answered by the one that ends it.

A client gets the same bytes whether it waits, asks later, or repeats its key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from services.order.domain import Order, OrderId, OrderNotPayable, OrderStatus, SagaId
from services.order.engine import key_store
from services.order.engine.operations import Attached, KeyClaim, Start, Started
from services.order.saga import Kind, Saga
from services.order.store import Answer, KeyPlace
from shared.encoding import encode
from shared.http.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from shared.postgres import Connection, Row
from shared.refusals import Refusal


def location(order: Order) -> str:
    """Return the path of an order."""
    return f"/v1/orders/{order.order_id}"


def instance(kind: Kind, order_id: OrderId) -> str:
    """Return the path of the request that a saga answers."""
    return {
        Kind.PLACE_NOW: "/v1/orders",
        Kind.PLACE_LATER: "/v1/orders",
        Kind.PAY: f"/v1/orders/{order_id}/payment",
        Kind.CLOSE: f"/v1/orders/{order_id}/cancel",
    }[kind]


def final(kind: Kind, order: Order, problem: Mapping[str, Any] | None, view: bytes) -> Answer:
    """Return the answer to an ended saga: its order (`view`, encoded once), or the problem that ended it."""
    path = instance(kind, order.order_id)
    if kind is Kind.PAY and order.status is OrderStatus.CANCELLED and problem is None:
        return refused(kind, OrderNotPayable("The payment was undone and the order cancelled."), order.order_id)
    if problem is not None:  # whatever the order has become since: this operation was refused
        body = {**problem, "order_id": str(order.order_id), "instance": path}
        return Answer(int(problem["status"]), encode(body))
    if kind in (Kind.PLACE_NOW, Kind.PLACE_LATER):
        return Answer(201, view, location(order))
    return Answer(200, view)


def ended(saga: Saga) -> Answer:
    """Return the answer of a saga that has ended, from what is stored."""
    return final(Kind(saga.kind), saga.order, saga.problem, encode(saga.order.view()))


def already(order: Order) -> Answer:
    """Return the answer to an operation whose order is what it would have made it."""
    return Answer(200, encode(order.view()))


def refused(kind: Kind, refusal: Refusal, order_id: OrderId) -> Answer:
    """Return the answer to an operation that the order's state refuses."""
    body = {**refusal.problem(), "order_id": str(order_id), "instance": instance(kind, order_id)}
    return Answer(refusal.status, encode(body))


async def claim_keys(db: Connection, starts: Sequence[Start]) -> dict[SagaId, Started | Refusal]:
    """Claim the keys of these starts; return a result for each whose key was taken before."""
    claims: dict[KeyPlace, Start] = {}
    for start in starts:
        if start.key is not None:
            claims.setdefault(start.key.place, start)
    if not claims:
        return {}
    won = await key_store.claim_keys(
        db, {place: (_claim(start).fingerprint, start.saga_id) for place, start in claims.items()}
    )
    lost = [place for place in claims if place not in won]
    stored = await key_store.read_keys(db, lost) if lost else {}
    results: dict[SagaId, Started | Refusal] = {}
    for start in starts:
        if start.key is None or (start.key.place in won and claims[start.key.place] is start):
            continue
        row = stored.get(start.key.place)
        known = row["fingerprint"] if row else _claim(claims[start.key.place]).fingerprint
        results[start.saga_id] = _earlier(start.key, known, row)
    return results


async def settle_keys(db: Connection, results: Sequence[tuple[Start, Started | Refusal]]) -> None:
    """Store the answer of claimed keys whose operation was answered at once, or tie them to the saga attached to."""
    answered: list[tuple[KeyPlace, Answer]] = []
    attached: list[tuple[KeyPlace, SagaId]] = []
    for start, result in results:
        if start.key is None:
            continue
        if isinstance(result, Answer):
            answered.append((start.key.place, result))
        elif isinstance(result, Attached):
            attached.append((start.key.place, result.saga_id))
    if answered:
        await key_store.answer_keys_now(db, answered)
    if attached:
        await key_store.attach_keys(db, attached)


async def read_answer(db: Connection, claim: KeyClaim) -> Answer | None:
    """Return the answer that is stored for a key, or None while there is none."""
    row = (await key_store.read_keys(db, [claim.place])).get(claim.place)
    found = _earlier(claim, claim.fingerprint, row)
    return found if isinstance(found, Answer) else None


async def is_known(db: Connection, claim: KeyClaim) -> bool:
    """Say whether a key was claimed before, by this request or by another."""
    return bool(await key_store.read_keys(db, [claim.place]))


def _claim(start: Start) -> KeyClaim:
    assert start.key is not None
    return start.key


def _earlier(claim: KeyClaim, known_fingerprint: bytes, row: Row | None) -> Answer | Refusal:
    if claim.fingerprint != known_fingerprint:
        return IdempotencyKeyReused()
    if row is None or row["status"] is None:
        return IdempotencyInProgress()
    return Answer(int(row["status"]), bytes(row["body"]), row["location"])
