"""Idempotent answers: the commit that starts an operation claims its key; the commit that ends it stores the answer.

A refusal is stored once, as its saga's problem; each answer with it is encoded from there. A client gets the same bytes
if it waits, reads later, or repeats its key.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.order import store
from services.order.domain import Order, OrderId, OrderNotPayable, OrderStatus, SagaId, with_products
from services.order.engine import key_store
from services.order.engine.operations import Attached, KeyClaim, Start, Started
from services.order.saga import Kind, Saga
from services.order.store import Answer, KeyPlace
from shared.encoding import encode
from shared.http.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from shared.postgres.connections import Connection, Row
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
    """Return the answer of an ended saga: its order (`view`, encoded once), or the problem that ended it."""
    if kind is Kind.PAY and order.status is OrderStatus.CANCELLED and problem is None:
        return refused(kind, OrderNotPayable("The payment was undone and the order cancelled."), order.order_id)
    if problem is not None:  # this operation was refused, even if the order has changed since
        return _refusal(kind, problem, order.order_id)
    if kind in (Kind.PLACE_NOW, Kind.PLACE_LATER):
        return Answer(201, view, location(order))
    return Answer(200, view)


def ended(saga: Saga) -> Answer:
    """Return the answer of an ended saga, computed from the stored rows."""
    return final(Kind(saga.kind), saga.order, saga.problem, encode(saga.order.view()))


def already(order: Order) -> Answer:
    """Return the answer to an operation whose order already has the requested status."""
    return Answer(200, encode(order.view()))


def refused(kind: Kind, refusal: Refusal, order_id: OrderId) -> Answer:
    """Return the answer to an operation that is refused because of the order's status."""
    return _refusal(kind, refusal.problem(), order_id)


async def claim_keys(db: Connection, starts: Sequence[Start]) -> dict[SagaId, Started | Refusal]:
    """Claim the keys of these starts; return a result for each start whose key was claimed before."""
    claims: dict[KeyPlace, tuple[bytes, SagaId]] = {}
    for start in starts:
        if start.key is not None:
            claims.setdefault(start.key.place, (start.key.fingerprint, start.saga_id))
    if not claims:
        return {}
    won = await key_store.claim_keys(db, claims)
    lost = [place for place in claims if place not in won]
    stored = await key_store.read_keys(db, lost) if lost else {}
    results: dict[SagaId, Started | Refusal] = {}
    for start in starts:
        if start.key is None:
            continue
        fingerprint, saga_id = claims[start.key.place]
        if start.key.place in won and saga_id == start.saga_id:
            continue
        row = stored.get(start.key.place)
        results[start.saga_id] = _earlier(start.key, row["fingerprint"] if row else fingerprint, row)
    return results


async def answer_or_attach_keys(db: Connection, results: Sequence[tuple[Start, Started | Refusal]]) -> None:
    """For claimed keys, store an answer that is already known, or attach the key to the saga that will answer it."""
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
    """Return the stored answer of a key, or None while there is none."""
    row = (await key_store.read_keys(db, [claim.place])).get(claim.place)
    found = _earlier(claim, claim.fingerprint, row)
    return found if isinstance(found, Answer) else None


async def is_known(db: Connection, claim: KeyClaim) -> bool:
    """Return whether a key was claimed before, by this request or another one."""
    return bool(await key_store.read_keys(db, [claim.place]))


def _stored_refusal(stored: Mapping[str, Any]) -> Answer:
    problem = with_products(stored["problem"], store.read_lines(stored["lines"]))
    assert problem is not None
    return _refusal(Kind(stored["kind"]), problem, OrderId(UUID(stored["order_id"])))


def _refusal(kind: Kind, problem: Mapping[str, Any], order_id: OrderId) -> Answer:
    body = {**problem, "order_id": str(order_id), "instance": instance(kind, order_id)}
    # Sorted: jsonb does not keep the order of members, and the stored problem must give the bytes of the first answer.
    return Answer(int(problem["status"]), encode(dict(sorted(body.items()))))


def _earlier(claim: KeyClaim, known_fingerprint: bytes, row: Row | None) -> Answer | Refusal:
    if claim.fingerprint != known_fingerprint:
        return IdempotencyKeyReused()
    if row is not None and row["refused"] is not None:
        return _stored_refusal(row["refused"])
    if row is None or row["status"] is None:
        return IdempotencyInProgress()
    return Answer(int(row["status"]), bytes(row["body"]), row["location"])
