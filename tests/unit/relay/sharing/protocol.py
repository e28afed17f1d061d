"""Every step of replicas, Kafka and failures, with the protocol's rules or with one of them broken."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.unit.relay.sharing.world import (
    ALONE,
    NO_ID,
    NOBODY,
    REPLICAS,
    SHARDS,
    TOGETHER,
    Batch,
    ShardPublisher,
    State,
    Step,
    Transaction,
    World,
    group_id,
    name,
)

Move = tuple[str, World]


@dataclass(frozen=True)
class Rules:
    """The protocol; each mutant changes one."""

    replicas: int = len(REPLICAS)
    take_over: tuple[Step, ...] = (Step.LEASE, Step.OPEN, Step.FENCE, Step.READ, Step.SETTLE)
    id_noted: Literal["before the claim", "before sending", "after the commit"] = "before the claim"
    session_from_before_claim: bool = True
    id_kept_in_the_air: bool = True
    unsettled_heeded: bool = True
    dead_group_reopened: bool = True
    rounds_awaited: bool = True

    @property
    def idle(self) -> Step:
        """Return the first step of a publisher without a lease."""
        return self.take_over[0]

    @property
    def spared(self) -> Step | None:
        """Return the step at which a round outlives its session, and continues with the next one."""
        return None if self.session_from_before_claim else Step.WRITE_TOGETHER

    def after(self, step: Step) -> Step:
        """Return what follows a step of the take-over."""
        place = self.take_over.index(step) + 1
        return self.take_over[place] if place < len(self.take_over) else Step.CYCLE


def moves(state: State, rules: Rules) -> Iterator[Move]:
    """Return every possible next step with its name."""
    for replica in range(rules.replicas):
        for shard in SHARDS:
            yield from _of_publisher(state, rules, replica, shard)
        yield from _of_group(state, rules, replica)
    yield from _of_kafka(state, rules)
    if state.faults_left:
        for replica in range(rules.replicas):
            yield from _faults(state, rules, replica)


def _of_publisher(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    publisher = state.publishers[len(SHARDS) * replica + shard]
    act = _ACTS.get(publisher.step)
    if act is not None:
        for what, world in act(state, rules, replica, shard):
            yield f"replica {replica}, shard {shard}: {what}", world


def _lease(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    stolen = any(state.publishers[len(SHARDS) * other + shard].current for other in REPLICAS)
    if stolen and not state.faults_left:
        return
    world = World(state, rules.idle)
    world.faults_left -= stolen
    world.end_epoch(shard)
    row = world.rows[shard]
    publisher = ShardPublisher(
        rules.after(Step.LEASE), current=True, to_fence=row.transactional_id if row.claimed else NO_ID
    )
    world.move(replica, shard, publisher)
    yield f"takes the lease{' from another' * stolen}", world


def _open(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    world = World(state, rules.idle)
    world.open_producer(shard, replica)
    publisher = world.publisher(replica, shard)
    step = rules.after(Step.OPEN)
    if step is Step.FENCE and publisher.to_fence == NO_ID:
        step = rules.after(step)
    world.move(replica, shard, publisher._replace(step=step))
    yield "opens the shard's producer", world


def _fence(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    world = World(state, rules.idle)
    publisher, row = world.publisher(replica, shard), state.rows[shard]
    to_fence = publisher.to_fence
    if rules.idle is Step.FENCE:
        to_fence = row.transactional_id if row.claimed else NO_ID
    if to_fence == group_id(replica):
        if not state.group_alive[replica] and rules.dead_group_reopened:
            world.open_producer(to_fence, replica, spared=rules.spared)
            world.group_alive[replica] = True
    elif to_fence != NO_ID:
        world.open_producer(to_fence, NOBODY, spared=rules.spared)
    world.move(replica, shard, publisher._replace(step=rules.after(Step.FENCE), to_fence=NO_ID))
    yield f"fences {name(to_fence)}", world


def _read(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    world = World(state, rules.idle)
    unsettled = sum(batch.shard == shard for transaction in state.transactions for batch in transaction.written)
    visible = state.committed[shard] - sum(
        batch.shard == shard for transaction in state.transactions if transaction.ended for batch in transaction.written
    )
    row = state.rows[shard]
    if unsettled and rules.unsettled_heeded:
        world.leave(replica, shard)
        yield "finds an unsettled transaction", world
        return
    if visible not in (row.number, row.number - row.claimed):
        world.broken = f"a shard is refused: {visible} is committed, {row.number} claimed"
    publisher = world.publisher(replica, shard)
    step = rules.after(Step.READ)
    if step is Step.FENCE and publisher.to_fence == NO_ID:
        step = rules.after(step)
    world.move(replica, shard, publisher._replace(step=step, published=visible == row.number))
    yield f"reads that {visible} is committed", world


def _settle(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    world = World(state, rules.idle)
    publisher = world.publisher(replica, shard)
    if publisher.published:
        world.mark(shard)
    else:
        world.unclaim(shard)
    world.move(replica, shard, ShardPublisher(Step.CYCLE, current=True))
    yield "marks the batch" if publisher.published else "gives the claim up", world


def _cycle(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    row, group = state.rows[shard], group_id(replica)
    if not row.waiting:
        if row.claimed:
            world = World(state, rules.idle)
            world.mark(shard)
            yield "marks the last batch", world
        return
    for id_ in (NO_ID, group) if rules.id_noted == "before the claim" else (NO_ID,):
        if row.transactional_id != id_:
            world = World(state, rules.idle)
            world.note(shard, id_)
            yield f"notes that its batches go with {name(id_)}", world
    if row.transactional_id == NO_ID:
        yield "cycles alone", _claimed(state, rules, replica, shard, shard)
    if not state.group_alive[replica]:
        world = World(state, rules.idle)
        world.open_producer(group, replica, spared=rules.spared)
        world.group_alive[replica] = True
        yield "opens the group's producer", world
    elif row.transactional_id == group or rules.id_noted != "before the claim":
        yield "cycles for the group", _claimed(state, rules, replica, shard, group)


def _claimed(state: State, rules: Rules, replica: int, shard: int, id_: int) -> World:
    """Mark, claim the next batch, and detect immediately whether its producer is already fenced."""
    world = World(state, rules.idle)
    world.mark(shard)
    world.claim(shard)
    step = Step.WRITE_ALONE
    if id_ != shard:
        step = Step.NOTE if rules.id_noted == "before sending" else Step.WRITE_TOGETHER
    if world.transactions[id_].session == replica or step is rules.spared:
        world.move(replica, shard, ShardPublisher(step, current=True, number=world.rows[shard].number))
        return world
    world.leave(replica, shard)
    if id_ != shard:
        world.group_alive[replica] = False
    return world


def _note(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    world = World(state, rules.idle)
    publisher = world.publisher(replica, shard)
    if publisher.current:
        world.note(shard, group_id(replica))
        world.move(replica, shard, publisher._replace(step=Step.WRITE_TOGETHER))
    else:
        world.leave(replica, shard)
    yield "notes the group's id", world


def _write(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    publisher = state.publishers[len(SHARDS) * replica + shard]
    alone = publisher.step is Step.WRITE_ALONE
    id_ = shard if alone else group_id(replica)
    transaction = state.transactions[id_]
    if transaction.session == replica and not transaction.ended:
        world = World(state, rules.idle)
        world.write(id_, Batch(shard, publisher.number))
        step = Step.COMMIT_ALONE if alone else Step.COMMIT_TOGETHER
        world.move(replica, shard, publisher._replace(step=step))
        yield "its batch is written", world
    if not rules.id_kept_in_the_air and not alone and publisher.current and state.rows[shard].transactional_id != NO_ID:
        world = World(state, rules.idle)
        world.note(shard, NO_ID)
        yield "records too early that its batches are published alone", world
    if not rules.rounds_awaited and not alone:
        world = World(state, rules.idle)
        world.leave(replica, shard)
        world.transactions[id_] = transaction._replace(late=(*transaction.late, Batch(shard, publisher.number)))
        yield "does not wait for its round", world


def _commit_alone(state: State, rules: Rules, replica: int, shard: int) -> Iterator[Move]:
    world = World(state, rules.idle)
    world.end(shard)
    world.move(replica, shard, world.publisher(replica, shard)._replace(step=Step.CYCLE, number=0))
    yield "its transaction is committed", world


_ACTS = {
    Step.LEASE: _lease,
    Step.OPEN: _open,
    Step.FENCE: _fence,
    Step.READ: _read,
    Step.SETTLE: _settle,
    Step.CYCLE: _cycle,
    Step.NOTE: _note,
    Step.WRITE_ALONE: _write,
    Step.COMMIT_ALONE: _commit_alone,
    Step.WRITE_TOGETHER: _write,
}


def _of_group(state: State, rules: Rules, replica: int) -> Iterator[Move]:
    id_ = group_id(replica)
    transaction = state.transactions[id_]
    if transaction.session == replica and transaction.written and not transaction.ended:
        world = World(state, rules.idle)
        world.end(id_)
        for shard in SHARDS:
            publisher = world.publisher(replica, shard)
            if publisher.step is Step.COMMIT_TOGETHER:
                if rules.id_noted == "after the commit" and publisher.current:
                    world.note(shard, id_)
                world.move(replica, shard, publisher._replace(step=Step.CYCLE, number=0))
        yield f"replica {replica}: the group's transaction is committed", world
    if state.group_alive[replica] and transaction.session != replica:
        world = World(state, rules.idle)
        world.group_alive[replica] = False
        yield f"replica {replica}: learns that its group is fenced", world


def _of_kafka(state: State, rules: Rules) -> Iterator[Move]:
    for id_, transaction in enumerate(state.transactions):
        if transaction.ended:
            world = World(state, rules.idle)
            world.transactions[id_] = transaction._replace(written=(), ended=False)
            yield f"{name(id_)}: the commit becomes visible", world
            continue
        for batch in transaction.late:
            world = World(state, rules.idle)
            world.transactions[id_] = transaction._replace(
                late=tuple(late for late in transaction.late if late != batch)
            )
            world.write(id_, batch)
            yield f"{name(id_)}: a batch of shard {batch.shard} arrives late", world
        if transaction.late_end and transaction.written:
            world = World(state, rules.idle)
            world.end(id_)
            yield f"{name(id_)}: the request to commit arrives late", world


def _faults(state: State, rules: Rules, replica: int) -> Iterator[Move]:
    for shard in SHARDS:
        publisher = state.publishers[len(SHARDS) * replica + shard]
        if publisher.step not in (rules.idle, *TOGETHER) and (publisher.current or publisher.step in ALONE):
            world = _after_fault(state, rules)
            _give_up(world, replica, shard)
            yield f"replica {replica}, shard {shard}: fails", world
        if publisher.step is Step.WRITE_TOGETHER:
            world = _after_fault(state, rules)
            world.leave(replica, shard)
            yield f"replica {replica}, shard {shard}: does not learn what it has claimed", world
    written = state.transactions[group_id(replica)].written
    for late_end in (False, True) if written else (False,):
        under_way = ", its commit is under way" * late_end
        if state.group_alive[replica]:
            world = _after_fault(state, rules)
            _drop_group(world, rules, replica, late_end=late_end)
            yield f"replica {replica}: the group fails{under_way}", world
        world = _after_fault(state, rules)
        _crash(world, rules, replica, late_end=late_end)
        yield f"replica {replica}: crashes{under_way}", world


def _after_fault(state: State, rules: Rules) -> World:
    world = World(state, rules.idle)
    world.faults_left -= 1
    return world


def _give_up(world: World, replica: int, shard: int) -> None:
    """Let a publisher fail at any step; what it has sent may still arrive."""
    publisher, transaction = world.publisher(replica, shard), world.transactions[shard]
    if publisher.step is Step.WRITE_ALONE:
        world.transactions[shard] = transaction._replace(late=(Batch(shard, publisher.number),))
    if publisher.step is Step.COMMIT_ALONE:
        world.transactions[shard] = transaction._replace(late_end=True)
    world.leave(replica, shard)


def _drop_group(world: World, rules: Rules, replica: int, *, late_end: bool) -> None:
    """Drop the group's producer, and all its publishers; either its writes or its commit may still arrive."""
    late = []
    for shard in SHARDS:
        publisher = world.publisher(replica, shard)
        if publisher.step is Step.WRITE_TOGETHER:
            late.append(Batch(shard, publisher.number))
        if publisher.step in TOGETHER and publisher.step is not rules.spared:
            world.leave(replica, shard)
    world.group_alive[replica] = False
    transaction = world.transactions[group_id(replica)]
    if transaction.session == replica:
        world.transactions[group_id(replica)] = transaction._replace(
            session=NOBODY, late=() if late_end else tuple(late), late_end=late_end and not transaction.ended
        )


def _crash(world: World, rules: Rules, replica: int, *, late_end: bool) -> None:
    """End a process; it restarts with another name, and so with another id for its group."""
    _drop_group(world, rules, replica, late_end=late_end)
    for shard in SHARDS:
        _give_up(world, replica, shard)
    old, former = group_id(replica), len(world.transactions)
    world.transactions.append(world.transactions[old])
    world.transactions[old] = Transaction()
    world.rows = [row._replace(transactional_id=former) if row.transactional_id == old else row for row in world.rows]
    world.publishers = [
        publisher._replace(to_fence=former) if publisher.to_fence == old else publisher
        for publisher in world.publishers
    ]
