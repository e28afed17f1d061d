"""The states of the shared-transactions model: rows in Postgres, transactions in Kafka, publishers in replicas.

Everything that only grows is left out, so that states repeat. An epoch, of a lease or of a producer, is known by
whether it is still the newest: what comes under an older one is refused, however old it is. Batches have one event
each, and event n is the one of batch n.
"""

from enum import IntEnum
from typing import NamedTuple

REPLICAS = (0, 1)
SHARDS = (0, 1)

# Transactional ids are places in `State.transactions`: the shards' own, the replicas' groups, and then the groups of
# processes that have crashed.
NO_ID = -1
NOBODY = -1


def group_id(replica: int) -> int:
    """Return the transactional id of the replica's group producer."""
    return len(SHARDS) + replica


def name(id_: int) -> str:
    """Return what people call a transactional id."""
    if id_ in SHARDS:
        return f"shard {id_}"
    if id_ < 0:
        return "the shard's own id"
    replica = id_ - len(SHARDS)
    return f"group {replica}" if replica in REPLICAS else f"the group of crash {replica - len(REPLICAS) + 1}"


class Step(IntEnum):
    """The next step of a publisher."""

    LEASE = 0
    OPEN = 1
    FENCE = 2
    READ = 3
    SETTLE = 4
    CYCLE = 5
    NOTE = 6  # only where the transactional id is noted after the claim
    WRITE_ALONE = 7
    COMMIT_ALONE = 8
    WRITE_TOGETHER = 9
    COMMIT_TOGETHER = 10


ALONE = (Step.WRITE_ALONE, Step.COMMIT_ALONE)
TOGETHER = (Step.NOTE, Step.WRITE_TOGETHER, Step.COMMIT_TOGETHER)


class ShardPublisher(NamedTuple):
    """One shard in one replica. `current`: its epoch is the row's; `number`: of the batch that it sends."""

    step: Step
    current: bool = False
    to_fence: int = NO_ID
    published: bool = False
    number: int = 0


class Row(NamedTuple):
    """A shard's row and events: how many are SENT, claimed and neither, and the id that its batches go out with."""

    sent: int
    claimed: int
    waiting: int
    transactional_id: int = NO_ID

    @property
    def number(self) -> int:
        """Return the number of the last batch claimed."""
        return self.sent + self.claimed


class Batch(NamedTuple):
    """What one produce request brings: a shard's event, and its number for the position partition."""

    shard: int
    number: int


class Transaction(NamedTuple):
    """What Kafka knows of a transactional id, and what is still on its way there.

    `session` is the replica that has the newest producer, if that is not dropped. A transaction is under way while
    anything is `written`; `ended` once its commit is certain, but not yet visible. `late` and `late_end` are requests
    of a producer that was dropped; they may still arrive until the next one is opened.
    """

    session: int = NOBODY
    written: tuple[Batch, ...] = ()
    ended: bool = False
    late: tuple[Batch, ...] = ()
    late_end: bool = False


class State(NamedTuple):
    """Everything. `group_alive`: the replica has a group producer and knows of nothing wrong with it.

    `broken` says what must not be, without naming the shard: states that differ only in names are taken for one.
    """

    rows: tuple[Row, ...]
    committed: tuple[int, ...]
    publishers: tuple[ShardPublisher, ...]
    group_alive: tuple[bool, ...]
    transactions: tuple[Transaction, ...]
    faults_left: int
    broken: str = ""


def beginning(idle: Step, events: int, faults: int) -> State:
    """Return the state in which nothing is held, opened or published, and each shard has some events."""
    return State(
        rows=tuple(Row(0, 0, events) for _ in SHARDS),
        committed=tuple(0 for _ in SHARDS),
        publishers=tuple(ShardPublisher(idle) for _ in REPLICAS for _ in SHARDS),
        group_alive=tuple(False for _ in REPLICAS),
        transactions=tuple(Transaction() for _ in (*SHARDS, *REPLICAS)),
        faults_left=faults,
    )


class World:
    """A state that is being changed."""

    def __init__(self, state: State, idle: Step) -> None:
        self._idle = ShardPublisher(idle)
        self.rows = list(state.rows)
        self.committed = list(state.committed)
        self.publishers = list(state.publishers)
        self.group_alive = list(state.group_alive)
        self.transactions = list(state.transactions)
        self.faults_left = state.faults_left
        self.broken = ""

    def state(self) -> State:
        """Return the state as it is now."""
        return State(
            tuple(self.rows),
            tuple(self.committed),
            tuple(self.publishers),
            tuple(self.group_alive),
            tuple(self.transactions),
            self.faults_left,
            self.broken,
        )

    def publisher(self, replica: int, shard: int) -> ShardPublisher:
        """Return the replica's publisher of the shard."""
        return self.publishers[len(SHARDS) * replica + shard]

    def move(self, replica: int, shard: int, publisher: ShardPublisher) -> None:
        """Move a publisher to another step; one whose epoch is over only goes on while that does anything."""
        if not publisher.current and publisher.step in (Step.READ, Step.SETTLE, Step.CYCLE):
            self.leave(replica, shard)
        else:
            self.publishers[len(SHARDS) * replica + shard] = publisher

    def leave(self, replica: int, shard: int) -> None:
        """Let a publisher drop its own producer and begin again with a take-over."""
        self.publishers[len(SHARDS) * replica + shard] = self._idle
        if self.transactions[shard].session == replica:
            self.transactions[shard] = self.transactions[shard]._replace(session=NOBODY)

    def end_epoch(self, shard: int) -> None:
        """Make the epoch of the shard's holder an old one."""
        for replica in REPLICAS:
            publisher = self.publisher(replica, shard)
            if publisher.current:
                self.move(replica, shard, publisher._replace(current=False))

    def open_producer(self, id_: int, session: int, *, spared: Step | None = None) -> None:
        """Open a producer: whatever the one before left open is over, and nothing it sends is taken any more.

        Who was sending with it can only fail, so it does at once; but for those at the step that is `spared`.
        """
        self.transactions[id_] = Transaction(session=session)
        for replica in REPLICAS:
            for shard in SHARDS:
                step = self.publisher(replica, shard).step
                sending = (shard == id_ and step in ALONE) or (group_id(replica) == id_ and step in TOGETHER)
                if sending and step is not spared:
                    self.leave(replica, shard)

    def write(self, id_: int, batch: Batch) -> None:
        """Take a produce request into the id's transaction."""
        transaction = self.transactions[id_]
        self.transactions[id_] = transaction._replace(written=tuple(sorted((*transaction.written, batch))))

    def end(self, id_: int) -> None:
        """Accept the commit of the id's transaction."""
        for shard, number in self.transactions[id_].written:
            if number <= self.committed[shard]:
                self.broken = f"event {number} of a shard is committed twice"
            elif number > self.committed[shard] + 1:
                self.broken = f"event {number} of a shard is committed before the one before it"
            self.committed[shard] = number
        self.transactions[id_] = self.transactions[id_]._replace(ended=True, late_end=False)

    def note(self, shard: int, id_: int) -> None:
        """Note with which transactional id the shard's next batch goes out."""
        self.rows[shard] = self.rows[shard]._replace(transactional_id=id_)

    def mark(self, shard: int) -> None:
        """Mark the claimed event SENT."""
        row = self.rows[shard]
        if row.number > self.committed[shard]:
            self.broken = f"event {row.number} of a shard is marked, but not committed"
        self.rows[shard] = row._replace(sent=row.number, claimed=0)

    def claim(self, shard: int) -> None:
        """Claim the next event, of which there is one."""
        row = self.rows[shard]
        self.rows[shard] = row._replace(claimed=1, waiting=row.waiting - 1)

    def unclaim(self, shard: int) -> None:
        """Give up the claim, if there is one."""
        row = self.rows[shard]
        self.rows[shard] = row._replace(claimed=0, waiting=row.waiting + row.claimed)
