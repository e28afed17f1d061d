"""The protocol's state in the database: gates and stored outcomes, the same in every participant's schema."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from shared.participant.protocol import Outcome, OutcomeKey, Verdict
from shared.postgres.connections import Connection, Row, load_queries
from shared.refusals import Unavailable


def gate_queries(schema: str, gate: str) -> Mapping[str, str]:
    """Return the queries of gates and outcomes by name, for a schema and its column with a gate's id."""
    queries = load_queries(Path(__file__).with_name("gates.sql"))
    return {name: query.replace("{schema}", schema).replace("{gate}", gate) for name, query in queries.items()}


class Gates:
    """A participant's gates and stored outcomes. As in a store, the caller owns the transaction.

    `sql`: all queries of the participant by name, with those of `gate_queries`. `forgotten_too`: names of further
    queries that delete rows of pruned gates.
    """

    def __init__(self, sql: Mapping[str, str], forgotten_too: Sequence[str] = ()) -> None:
        self.sql = sql
        self._forgotten_too = forgotten_too

    async def open_gates(self, db: Connection, gates: Sequence[UUID]) -> None:
        """Create the gates that do not exist yet."""
        await db.execute(self.sql["open_gates"], gates)

    async def lock_gates(self, db: Connection, gates: Sequence[UUID]) -> tuple[set[UUID], set[UUID], datetime]:
        """Lock the gates in order of id; return those closed, those past, and the transaction's time.

        Raises Unavailable.
        """
        rows = await db.fetch(self.sql["lock_gates"], gates)
        return *sort_gates(rows, gates), rows[0]["now"]

    async def read_outcomes(self, db: Connection, gates: Sequence[UUID]) -> dict[OutcomeKey, Outcome]:
        """Return the stored outcomes of the gates."""
        rows = await db.fetch(self.sql["read_outcomes"], gates)
        return {(row["gate"], row["type"], row["attempt"]): Outcome(row["applied"], row["body"]) for row in rows}

    async def write_verdict(self, db: Connection, verdict: Verdict) -> None:
        """Store a batch's new outcomes and close gates for good: at most two statements, however large the batch."""
        if verdict.new_outcomes:
            gates, types, attempts = zip(*verdict.new_outcomes, strict=True)
            applied = [outcome.applied for outcome in verdict.new_outcomes.values()]
            bodies = [outcome.body for outcome in verdict.new_outcomes.values()]
            await db.execute(self.sql["write_outcomes"], gates, types, attempts, applied, bodies)
        if verdict.newly_closed:
            await db.execute(self.sql["close_gates"], list(verdict.newly_closed))

    async def read_gate_outcomes(self, db: Connection, gate: UUID) -> list[Row]:
        """Return whether the gate is closed with each of its outcomes; nothing if there is no such gate."""
        return await db.fetch(self.sql["read_gate_outcomes"], gate)

    async def raise_horizon(self, db: Connection, days: int) -> None:
        """Declare gates older than `days` past: from now on, dos on them are refused."""
        await db.execute(self.sql["raise_horizon"], days)

    async def prune_gates(self, db: Connection, after: UUID, limit: int) -> Sequence[UUID]:
        """Delete up to `limit` gates past the horizon with an id above `after`, in id order; return their ids.

        Only a late do could need what is deleted; what an undo needs is kept for ever. Gates that a batch has locked
        are skipped, and everything else is deleted under the gates' locks, so this waits for no batch.
        """
        gates = [row["gate"] for row in await db.fetch(self.sql["lock_gates_to_prune"], after, limit)]
        if gates:
            for query in ("delete_outcomes", *self._forgotten_too, "delete_gates"):
                await db.execute(self.sql[query], gates)
        return gates


def sort_gates(rows: Sequence[Row], gates: Sequence[UUID]) -> tuple[set[UUID], set[UUID]]:
    """Return the locked gates that are closed, and those that are past.

    `gates`: the requested ones. Raises Unavailable if one was pruned between the two statements that open and lock it.
    The same commands then open it again.
    """
    if len(rows) < len(gates):
        raise Unavailable("A gate was pruned just now; ask again.")
    return {row["gate"] for row in rows if row["closed"]}, {row["gate"] for row in rows if row["past"]}
