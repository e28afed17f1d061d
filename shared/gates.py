"""The participant protocol's gates as they were locked: which are closed, and which are past."""

from collections.abc import Sequence
from uuid import UUID

from shared.postgres import Row
from shared.refusals import Unavailable


def sort_gates(rows: Sequence[Row], gates: Sequence[UUID]) -> tuple[set[UUID], set[UUID]]:
    """Return the locked gates that are closed, and those that are past.

    `gates` are those that were to be locked. Raises Unavailable when one was pruned between the two statements that
    open and lock it: nothing is known of it then, and the same commands will make it anew.
    """
    if len(rows) < len(gates):
        raise Unavailable("A gate was pruned just now; ask again.")
    return {row["order_id"] for row in rows if row["closed"]}, {row["order_id"] for row in rows if row["past"]}
