"""Idempotency keys: claimed in the transaction that starts an operation, answered in the one that ends it."""

from collections.abc import Sequence

from services.order import store
from services.order.answers import Answer
from services.order.domain import SagaId
from services.order.operations import Attached, KeyClaim, KeyPlace, Start, Started
from shared.http.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from shared.postgres import Connection, Row
from shared.refusals import Refusal


async def claim_keys(db: Connection, starts: Sequence[Start]) -> dict[SagaId, Started | Refusal]:
    """Claim the keys of these starts; return a result for each whose key was taken before."""
    claims: dict[KeyPlace, Start] = {}
    for start in starts:
        if start.key is not None:
            claims.setdefault(start.key.place, start)
    if not claims:
        return {}
    places = sorted(claims)  # every replica in the same order: no deadlock
    rows = await db.fetch(
        store.SQL["claim_keys"],
        *map(list, zip(*places, strict=True)),
        [_claim(claims[place]).fingerprint for place in places],
        [claims[place].saga_id for place in places],
    )
    won = {(row["user_id"], row["operation"], row["key"]) for row in rows}
    lost = [place for place in places if place not in won]
    stored = await _read_keys(db, lost) if lost else {}
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
        await db.execute(
            store.SQL["answer_keys_now"],
            *map(list, zip(*(place for place, _ in answered), strict=True)),
            [answer.status for _, answer in answered],
            [answer.body for _, answer in answered],
            [answer.location for _, answer in answered],
        )
    if attached:
        await db.execute(
            store.SQL["attach_keys"],
            *map(list, zip(*(place for place, _ in attached), strict=True)),
            [saga_id for _, saga_id in attached],
        )


async def read_answer(db: Connection, claim: KeyClaim) -> Answer | None:
    """Return the answer that is stored for a key, or None while there is none."""
    row = (await _read_keys(db, [claim.place])).get(claim.place)
    found = _earlier(claim, claim.fingerprint, row)
    return found if isinstance(found, Answer) else None


async def is_known(db: Connection, claim: KeyClaim) -> bool:
    """Say whether a key was claimed before, by this request or by another."""
    return bool(await _read_keys(db, [claim.place]))


async def _read_keys(db: Connection, places: Sequence[KeyPlace]) -> dict[KeyPlace, Row]:
    rows = await db.fetch(store.SQL["read_keys"], *map(list, zip(*places, strict=True)))
    return {(row["user_id"], row["operation"], row["key"]): row for row in rows}


def _claim(start: Start) -> KeyClaim:
    assert start.key is not None
    return start.key


def _earlier(claim: KeyClaim, known_fingerprint: bytes, row: Row | None) -> Answer | Refusal:
    if claim.fingerprint != known_fingerprint:
        return IdempotencyKeyReused()
    if row is None or row["status"] is None:
        return IdempotencyInProgress()
    return Answer(int(row["status"]), bytes(row["body"]), row["location"])
