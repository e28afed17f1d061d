"""The states of the shared-transactions model: rows in Postgres, transactions in Kafka, publishers in replicas.

Values that only grow are omitted, so that states repeat. For an epoch of a lease or of a producer, the model only has
whether it is the newest: requests with any older epoch are refused. Each batch has one event, and event n is the one
of batch n.
"""

from enum import IntEnum
from typing import NamedTuple

REPLICAS = (0, 1)
SHARDS = (0, 1)

# Transactional ids are indexes of `State.transactions`: the shards' own ids, the replicas' groups, and then the groups
# of crashed processes.
NO_ID = -1
NOBODY = -1


def group_id(replica: int) -> int:
    """Return the transactional id of the replica's group producer."""
    return len(SHARDS) + replica


def name(id_: int) -> str:
    """Return the name of a transactional id."""
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
    """One shard in one replica. `current`: its epoch is the row's; `number`: that of the batch it sends."""

    step: Step
    current: bool = False
    to_fence: int = NO_ID
    published: bool = False
    number: int = 0


class Row(NamedTuple):
    """A shard's row and events: how many are SENT, claimed and neither, and the transactional id of its batches."""

    sent: int
    claimed: int
    waiting: int
    transactional_id: int = NO_ID

    @property
    def number(self) -> int:
        """Return the number of the last batch claimed."""
        return self.sent + self.claimed


class Batch(NamedTuple):
    """The content of one produce request: a shard's event, and its number for the position partition."""

    shard: int
    number: int


class Transaction(NamedTuple):
    """Kafka's state of a transactional id, and the requests in transit.

    `session` is the replica with the newest producer, unless it was dropped. A transaction is open while anything is
    `written`; it is `ended` once its commit is certain, but not yet visible. `late` and `late_end` are requests of a
    dropped producer; they may still arrive until the next producer is opened.
    """

    session: int = NOBODY
    written: tuple[Batch, ...] = ()
    ended: bool = False
    late: tuple[Batch, ...] = ()
    late_end: bool = False


class State(NamedTuple):
    """The whole state. `group_alive`: the replica has a group producer without a known failure.

    `broken` describes a violation without the shard's name, because states that differ only in names count as one.
    """

    rows: tuple[Row, ...]
    committed: tuple[int, ...]
    publishers: tuple[ShardPublisher, ...]
    group_alive: tuple[bool, ...]
    transactions: tuple[Transaction, ...]
    faults_left: int
    broken: str = ""


def beginning(idle: Step, events: int, faults: int) -> State:
    """Return the initial state: nothing is held, opened or published, and each shard has some events."""
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
        """Move a publisher to another step; a publisher with an old epoch only continues while it has an effect."""
        if not publisher.current and publisher.step in (Step.READ, Step.SETTLE, Step.CYCLE):
            self.leave(replica, shard)
        else:
            self.publishers[len(SHARDS) * replica + shard] = publisher

    def leave(self, replica: int, shard: int) -> None:
        """Let a publisher drop its producer and restart with a take-over."""
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
        """Open a producer: the previous one's transaction ends, and none of its requests is accepted any more.

        Publishers that used the previous one can only fail, so they fail now, except those at the `spared` step.
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
        """Record the transactional id of the shard's next batch."""
        self.rows[shard] = self.rows[shard]._replace(transactional_id=id_)

    def mark(self, shard: int) -> None:
        """Mark the claimed event SENT."""
        row = self.rows[shard]
        if row.number > self.committed[shard]:
            self.broken = f"event {row.number} of a shard is marked, but not committed"
        self.rows[shard] = row._replace(sent=row.number, claimed=0)

    def claim(self, shard: int) -> None:
        """Claim the next event; there must be one."""
        row = self.rows[shard]
        self.rows[shard] = row._replace(claimed=1, waiting=row.waiting - 1)

    def unclaim(self, shard: int) -> None:
        """Undo the claim, if there is one."""
        row = self.rows[shard]
        self.rows[shard] = row._replace(claimed=0, waiting=row.waiting + row.claimed)
