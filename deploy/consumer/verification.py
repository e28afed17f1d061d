"""Compares what the topic said of an order with the relay's history. An event that is not in it is forged.

Everybody who may write to the topic can publish a record that looks like the relay's. The relay's API is asked for
each order that has a gap, two records that contradict each other, or an event of an unlikely time. The comparison of
minutes finds all other forged events. A forged event is named and withdrawn, and the order becomes what the true
events say. The relay commits an event before it publishes it. So an event that was read from the topic is in the
history by the time that the relay is asked.
"""

import base64
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from uuid import UUID

import structlog

from . import intake, store
from .events import Event, Undecodable, decode, event_of
from .relay import Item, Relays
from .runtime import Connection, Pool
from .store import Row

log = structlog.get_logger()

# Far more events than an order has. A longer gap is a mistake, and counting through it could take for ever.
GAP_MAX = 10_000
GIVEN_UP = "SKIPPED"  # the relay's status of an event that an operator gave up
UNKNOWN = "the relay has no such event"
SKIPPED = "an operator gave this event up, so it was never published"
Histories = Mapping[str, Sequence[Item]]  # by topic, what its relay has of an order
NAMES = ("event_id", "sequence", "type", "occurred_at", "sha256")


class Verdict(Enum):
    """What the relay's history says of an event. OPEN: not yet. ABSENT: nothing."""

    TRUE = 1
    OPEN = 2
    ABSENT = 3
    FORGED = 4


@dataclass(frozen=True, slots=True)
class Claim:
    """What a record says. `removed_before`: the relay had removed all earlier events before the record was published.

    None if that time is unknown.
    """

    event_id: UUID
    sequence: int
    type: str
    occurred_at: datetime
    sha256: bytes
    removed_before: datetime | None = None


@dataclass(slots=True)
class Findings:
    """Why stored events and dead letters are forged, and which events are true, or can't be judged yet or ever.

    `elsewhere`: true events that were read from another topic than their relay's, by that relay's topic.
    """

    forged: dict[UUID, str] = field(default_factory=dict)
    letters: dict[Event, str] = field(default_factory=dict)
    true: set[UUID] = field(default_factory=set)
    elsewhere: dict[str, list[UUID]] = field(default_factory=lambda: defaultdict(list))
    undecided: bool = False
    unprovable: list[UUID] = field(default_factory=list)


async def verify(
    pool: Pool, relays: Relays, topics: Collection[str], order_id: UUID, doubted_at: datetime | None = None
) -> None:
    """Make an order what the relay's history says: withdraw forged events, and take missing ones. Raises Unavailable.

    `topics`: of the relays that may know the order, besides those from which its stored events came. None: all relays
    are asked. `doubted_at`: when the doubt that this call answers was raised. Sequences that will never come
    are passed.
    """
    # Ours first: the relay has what was read from the topic before.
    async with pool.connection() as db:
        rows = await store.events_of_order(db, order_id)
        letters = readable(await store.letters_of_order(db, order_id))
        sequence = await store.last_sequence(db, order_id) or 0
    named = {*topics, *(row["topic"] for row in rows), *(letter.topic for letter in letters)}
    asked = named if topics else set(relays)
    histories, findings, gaps, given_up = await _ask(relays, asked, order_id, sequence, rows, letters)
    theirs = _all(histories)
    events: list[Event] = []
    unreadable: list[int] = []
    for topic, items in histories.items():
        new = [item for item in items if UUID(item["event_id"]) not in findings.true]
        found, odd = decode_all(new, topic)
        events += found
        unreadable += odd
    async with pool.transaction() as db:
        withdrawn = await _withdraw(db, order_id, findings, theirs)
        await store.confirm_events(db, list(findings.true))
        for topic, event_ids in findings.elsewhere.items():
            await store.set_topic(db, event_ids, topic)
        taken = await intake.take(db, events, intake.RELAY, {order_id: given_up})
        lost_letters = set()
        for letter, reason in findings.letters.items():
            if await store.insert_forged(db, letter, reason):
                lost_letters.add(letter)
            assert letter.place is not None
            await store.resolve_dead_letter(db, letter.topic, *letter.place)
        if not findings.undecided and doubted_at is not None:
            await store.settle_stream(db, order_id, doubted_at)
    name(withdrawn, findings.forged)
    for letter, reason in findings.letters.items():
        identity = (letter.event_id, order_id, letter.sequence, letter.type, letter.topic)
        _name(*identity, letter.place, reason, lost=letter in lost_letters)
    if findings.unprovable and doubted_at is not None:
        log.warning("event.unprovable", order_id=str(order_id), event_ids=list(map(str, findings.unprovable)))
    if unreadable:
        log.error("event.unreadable", order_id=str(order_id), sequences=unreadable)
    if gaps and (taken.new or given_up):
        ends = {"first": gaps[0], "last": gaps[-1]}
        log.warning("gap.filled", order_id=str(order_id), **ends, fetched=taken.new, given_up=given_up)


async def _ask(
    relays: Relays,
    named: Collection[str],
    order_id: UUID,
    sequence: int,
    rows: Sequence[Row],
    letters: Mapping[Event, datetime | None],
) -> tuple[Histories, Findings, list[int], list[int]]:
    """Return what the named relays know of an order: histories, findings, and what `missing` returns.

    All relays are asked before a sequence is given up: an order that has moved to another cell has its earlier events
    at the relay that it left.
    """
    histories: dict[str, Sequence[Item]] = {}
    next_ones = [topic for topic in relays if topic in named]
    while True:
        histories |= {topic: await relays[topic].events_of_order(order_id) for topic in next_ones}
        findings = await _findings(relays, rows, letters, histories)
        gaps, given_up = missing(order_id, sequence, rows, findings, _all(histories))
        next_ones = [topic for topic in relays if topic not in histories]
        if not given_up or not next_ones:
            return histories, findings, gaps, given_up


def _all(histories: Histories) -> list[Item]:
    return [item for items in histories.values() for item in items]


def judge(claim: Claim, theirs: Sequence[Item]) -> tuple[Verdict, str]:
    """Compare a record with the relay's events of its order. Return the verdict and the reason for it."""
    item = next((one for one in theirs if one["sequence"] == claim.sequence), None)
    own = next((one for one in theirs if UUID(one["event_id"]) == claim.event_id), None)
    if item is None:
        return (Verdict.ABSENT, UNKNOWN) if own is None else (Verdict.FORGED, f"its sequence is {own['sequence']}")
    if own is not item:
        return Verdict.FORGED, "another event has this sequence of the order"
    if item["status"] == GIVEN_UP:
        return Verdict.FORGED, SKIPPED
    if not item["sha256"]:
        return Verdict.OPEN, "the event is not marked as published yet"
    differing = [
        what
        for what, same in {
            "type": item["type"] == claim.type,
            "time": datetime.fromisoformat(item["occurred_at"]) == claim.occurred_at,
            "value": bytes.fromhex(item["sha256"]) == claim.sha256,
        }.items()
        if not same
    ]
    return (
        (Verdict.FORGED, f"its {' and '.join(differing)} differ from the relay's") if differing else (Verdict.TRUE, "")
    )


async def _findings(
    relays: Relays, rows: Sequence[Row], letters: Mapping[Event, datetime | None], histories: Histories
) -> Findings:
    findings = Findings()
    for row in rows:
        claim = Claim(**{name: row[name] for name in (*NAMES, "removed_before")})
        if row["proven"]:
            verdict, reason, topic = Verdict.TRUE, "", _sender(claim, row["topic"], histories) or row["topic"]
        else:
            verdict, reason, topic = await _verdict(relays, claim, row["topic"], histories)
        if verdict is Verdict.FORGED:
            findings.forged[row["event_id"]] = reason
        elif verdict is Verdict.ABSENT:
            findings.unprovable.append(row["event_id"])
        elif verdict is Verdict.TRUE:
            findings.true.add(row["event_id"])
            if topic != row["topic"]:
                findings.elsewhere[topic].append(row["event_id"])
        findings.undecided |= verdict is Verdict.OPEN
    for letter, removed_before in letters.items():
        claim = Claim(**{name: getattr(letter, name) for name in NAMES}, removed_before=removed_before)
        verdict, reason, _ = await _verdict(relays, claim, letter.topic, histories)
        if verdict is Verdict.FORGED:
            findings.letters[letter] = reason
        findings.undecided |= verdict is Verdict.OPEN
    return findings


async def _verdict(relays: Relays, claim: Claim, topic: str, histories: Histories) -> tuple[Verdict, str, str]:
    """Judge a record of a topic. Return the verdict, the reason, and the topic whose relay decided.

    A true event that somebody has copied to another cell's topic is true, but belongs to its own relay's topic.
    """
    verdict, reason = judge(claim, histories.get(topic, ()))
    if verdict in (Verdict.TRUE, Verdict.OPEN):
        return verdict, reason, topic
    if sender := _sender(claim, topic, histories):
        return Verdict.TRUE, "", sender
    if topic not in histories:  # it isn't read any more, so nobody can say anything of its events
        return Verdict.ABSENT, UNKNOWN, topic
    if verdict is Verdict.ABSENT:
        if await relays[topic].keeps(claim.occurred_at):
            return Verdict.FORGED, reason, topic
        if claim.removed_before is not None and claim.occurred_at < claim.removed_before:
            return Verdict.FORGED, f"{reason}; it had removed that time before the record was published", topic
    return verdict, reason, topic


def _sender(claim: Claim, topic: str, histories: Histories) -> str | None:
    """Return the topic whose relay has sent a record: the given one, if its relay has. None if no relay has."""
    senders = [one for one, items in histories.items() if judge(claim, items)[0] is Verdict.TRUE]
    return topic if topic in senders else next(iter(senders), None)


def missing(
    order_id: UUID, sequence: int, rows: Sequence[Row], findings: Findings, theirs: Sequence[Item]
) -> tuple[list[int], list[int]]:
    """Return the sequences of an order that we lack, and those of them that will never come.

    `sequence`: the last one that was applied, forged events included.
    """
    undone = [row for row in rows if row["event_id"] in findings.forged and row["state"] in intake.COUNTED]
    first = 1 + min([sequence, *((row["before"] or [0])[0] for row in undone)])
    kept = {row["sequence"] for row in rows if row["event_id"] not in findings.forged}
    published = {item["sequence"] for item in theirs if item["sha256"]}
    last = max(kept | published, default=0)
    if last - first >= GAP_MAX:
        log.error("gap.too_long", order_id=str(order_id), first=first, last=last)
        return [], []
    gaps = [number for number in range(first, last + 1) if number not in kept]
    to_come = {item["sequence"] for item in theirs if item["status"] != GIVEN_UP}
    return gaps, [number for number in gaps if number not in to_come]


async def _withdraw(db: Connection, order_id: UUID, findings: Findings, theirs: Sequence[Item]) -> list[Row]:
    """Withdraw the forged events of an order, and events of other orders that have the id of one of its events."""
    elsewhere = await store.events_elsewhere(db, order_id, [UUID(item["event_id"]) for item in theirs])
    for row in elsewhere:
        findings.forged[row["event_id"]] = f"its id belongs to an event of order {order_id}"
    return await intake.withdraw(db, findings.forged, {order_id, *(row["order_id"] for row in elsewhere)})


def name(withdrawn: Iterable[Row], reasons: Mapping[UUID, str]) -> None:
    """Log events that were withdrawn, each with its reason."""
    for row in withdrawn:
        place = None if row["partition"] is None else (row["partition"], row["record_offset"])
        identity = (row["event_id"], row["order_id"], row["sequence"], row["type"], row["topic"])
        _name(*identity, place, reasons[row["event_id"]], lost=row["lost"])


def _name(
    event_id: UUID,
    order_id: UUID,
    sequence: int,
    type_: str,
    topic: str,
    place: tuple[int, int] | None,
    reason: str,
    *,
    lost: bool,
) -> None:
    partition, offset = place or (None, None)
    known = {"event_id": str(event_id), "order_id": str(order_id), "sequence": sequence, "type": type_, "topic": topic}
    if lost:
        log.warning("event.lost", **known, partition=partition, offset=offset, reason=reason)
    else:
        log.error("event.forged", **known, partition=partition, offset=offset, reason=reason)


def readable(letters: Iterable[Row]) -> dict[Event, datetime | None]:
    """Return the events of dead letters, each with the time before which the relay had removed its events."""
    events = {}
    for letter in letters:
        headers = [(key, None if value is None else bytes.fromhex(value)) for key, value in letter["headers"]]
        try:
            event = decode(headers, letter["value"], letter["topic"], (letter["partition"], letter["record_offset"]))
        except Undecodable:
            continue
        events[event] = letter["removed_before"]
    return events


def decode_all(items: Iterable[Item], topic: str) -> tuple[list[Event], list[int]]:
    """Return the published events of a list, as events of that topic, and the sequences of the unreadable ones."""
    events, unreadable = [], []
    for item in items:
        if item["sha256"]:
            try:
                events.append(event_of(item, base64.b64decode(item["data_base64"]), topic))
            except Undecodable:
                unreadable.append(item["sequence"])
    return events, unreadable
