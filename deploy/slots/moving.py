"""Moves slots, step by step. Each step is a transaction that the cells' databases remember, so the command may be
killed at any time and run again: it goes on where it was.

At every moment at most one cell takes writes for a slot:

    from       to         what may be written
    (open)     arriving   in the old cell; the new cell refuses
    leaving    arriving   what has begun may end in the old cell; nothing new begins
    leaving    arrived    nothing
    gone       arrived    nothing
    gone       (open)     in the new cell
"""

import time

from psycopg import sql

from deploy.slots.checks import check_cells, check_empty, check_movable
from deploy.slots.copying import Say, copy, delete
from deploy.slots.databases import Cell, RefusedError, advance, close, reopen
from deploy.slots.tables import ORDERS, SERVICES, Moved, Service

POLL_SECONDS = 0.1
_UNDER_WAY = """
    SELECT (SELECT count(*) FROM orders.sagas AS s
            WHERE s.status IN ('RUNNING', 'COMPENSATING') AND {sagas}) AS live,
           (SELECT count(*) FROM orders.outbox WHERE status = 'PENDING' AND {events}) AS pending,
           (SELECT count(*) FROM orders.outbox WHERE status = 'PARKED' AND {events}) AS parked
"""


def move(source: Cell, target: Cell, moved: Moved, wait_seconds: float, say: Say) -> None:
    """Move slots from one cell to another, or go on with it. Afterwards only the target takes writes for them.

    `wait_seconds`: how long to wait until sagas have ended and events are published. Raises RefusedError.
    """
    check_cells(source, target)
    if "gone" not in source.states(moved).values():
        _copy_all(source, target, moved, wait_seconds, say)
    _hand_over(source, target, moved, say)


def prepare(source: Cell, target: Cell, moved: Moved, say: Say) -> None:
    """Close slots in the target before its services get them in CELL_SLOTS. Raises RefusedError if they can't move."""
    check_cells(source, target)
    states = source.states(moved)
    if any(states.values()):
        raise RefusedError(f"{_told(states)} in the old cell: a move is under way or done")
    check_movable(source, target, moved)
    _prepare_all(target, moved, say)


def cancel(source: Cell, target: Cell, moved: Moved, say: Say) -> None:
    """Give a move up: delete what was copied, and open the slots where they were. Raises RefusedError.

    It is refused once the target may have written.
    """
    states, theirs = source.states(moved), target.states(moved)
    # One that is open beside one that has arrived: the hand-over has begun, whichever cell the other addresses are of.
    handed_over = {None, "arrived"} <= set(theirs.values())
    if not set(states.values()) <= {None, "leaving"} or "leaving" in theirs.values() or handed_over:
        raise RefusedError(
            f"{_told(states)} in the old cell, {_told(theirs)} in the new one: no move from the one to the other is"
            " under way, or it has handed over"
        )
    for service in reversed(SERVICES):
        if theirs[service.name] == "arriving":
            _prepare(target, service, moved, say)  # opens them if they are not empty: then it is their cell
        if (state := theirs[service.name]) in ("arriving", "arrived"):
            with target.of(service).transaction():
                # Its services may have the slots in CELL_SLOTS.
                advance(target, service, moved, state, "gone")
                if state == "arrived":
                    delete(target, service, moved, say)
    for service in reversed(SERVICES):
        if source.state(service, moved) == "leaving":
            reopen(source, service, moved, "leaving", say)
            say(f"{service.name}: open again in the old cell")


def delete_moved(source: Cell, target: Cell, moved: Moved, say: Say) -> None:
    """Delete the rows of slots that have moved, where they were. Raises RefusedError unless the target has taken over.

    Until the processes of the old cell have a new CELL_SLOTS, they answer reads from these rows.
    """
    states, theirs = source.states(moved), target.states(moved)
    if set(states.values()) != {"gone"} or not set(theirs.values()) <= {None, "gone"}:
        raise RefusedError(f"{_told(states)} in the old cell, and {_told(theirs)} in the new one: move them first")
    for service in SERVICES:
        with source.of(service).transaction():
            delete(source, service, moved, say)


def _copy_all(source: Cell, target: Cell, moved: Moved, wait_seconds: float, say: Say) -> None:
    if source.state(ORDERS, moved) is None:
        if "arrived" in target.states(moved).values():
            raise RefusedError("the new cell has an earlier copy, of a move that did not end: `cancel` deletes it")
        check_movable(source, target, moved)
    _prepare_all(target, moved, say)
    _leave(source, ORDERS, moved, say)
    _wait_until_quiet(source, moved, wait_seconds, say)
    for service in SERVICES:
        _leave(source, service, moved, say)
    for service in SERVICES:
        if target.state(service, moved) == "arriving":
            copy(source, target, service, moved, say)
            say(f"{service.name}: arrived in the new cell")


def _prepare_all(target: Cell, moved: Moved, say: Say) -> None:
    """Close the slots at each service of the new cell. Raises RefusedError if there are rows of these slots."""
    for service in SERVICES:
        if target.state(service, moved) == "gone":
            # They are closed, so there will be no more. With rows they stay gone: another cell has them.
            check_empty(target, service, moved)
    for service in SERVICES:
        _prepare(target, service, moved, say)


def _prepare(target: Cell, service: Service, moved: Moved, say: Say) -> None:
    """Close the slots in the new cell. Its services may get them in CELL_SLOTS before their rows are there.

    Raises RefusedError if there are rows of these slots. Closed slots get no more, so this is known for good. Only then
    it is looked for them: while the slots are being closed, others wait.
    """
    state = target.state(service, moved)
    if state == "arrived":
        return
    close(target, service, moved, "arriving", say)
    if state != "gone":
        try:
            check_empty(target, service, moved)
        except RefusedError:
            reopen(target, service, moved, "arriving", say)
            raise
    if state != "arriving":
        say(f"{service.name}: the new cell refuses these slots until they have arrived")


def _leave(source: Cell, service: Service, moved: Moved, say: Say) -> None:
    """Close the slots in the old cell."""
    state = source.state(service, moved)
    if state not in (None, "leaving"):
        raise RefusedError(f"the {service.name} service of the old cell does not have these slots: they are {state}")
    close(source, service, moved, "leaving", say)
    if state is None:
        say(f"{service.name}: the old cell begins nothing new for these slots")


def _wait_until_quiet(source: Cell, moved: Moved, wait_seconds: float, say: Say) -> None:
    """Wait until no saga of these slots is live, and all their events are published. None can be added."""
    by_order = ORDERS.rows(ORDERS.tables[0], moved)
    query = sql.SQL(_UNDER_WAY).format(sagas=by_order, events=by_order)
    deadline, told = time.monotonic() + wait_seconds, None
    while True:
        live, pending, parked = source.of(ORDERS).execute(query).fetchone() or (0, 0, 0)
        if (live, pending, parked) == (0, 0, 0):
            say("no saga is live, and every event is published")
            return
        if parked:
            raise RefusedError(
                f"{parked} events of these slots are parked: retry them or give them up (orderctl outbox), then run"
                " this again; `cancel` opens the slots meanwhile"
            )
        found = f"{live} sagas are live, and {pending} events wait to be published"
        if time.monotonic() > deadline:
            raise RefusedError(f"{found}, still after {wait_seconds:g} s: run this again, or `cancel`")
        if found != told:
            say(found)
            told = found
        time.sleep(POLL_SECONDS)


def _hand_over(source: Cell, target: Cell, moved: Moved, say: Say) -> None:
    """Let the new cell have the slots: first no old service, then the new participants, then the new order service."""
    ours, theirs = source.states(moved), target.states(moved)
    # None: its service has opened them in an earlier run, which is only done when all of the old cell's are gone.
    opened = all(state == "gone" for state in ours.values())
    if not set(theirs.values()) <= ({"arrived", None} if opened else {"arrived"}):
        raise RefusedError(f"they are {_told(theirs)} in the new cell: they have moved on, or the addresses are wrong")
    for service in SERVICES:
        if ours[service.name] != "gone":
            with source.of(service).transaction():
                advance(source, service, moved, "leaving", "gone")
            say(f"{service.name}: gone from the old cell")
    for service in reversed(SERVICES):
        if theirs[service.name] is not None:
            reopen(target, service, moved, "arrived", say)
            say(f"{service.name}: open in the new cell")


def _told(states: dict[str, str | None]) -> str:
    return ", ".join(f"{state or 'open'} at {name}" for name, state in states.items())
