"""The ledger's own check has an example only if the sums contradict each other."""

from typing import Any

import pytest

from services.balance.store import check_books

EVEN = {"accounts": 70, "funding": -100, "sales": 30, "balances": 70}


class Totals:
    """Stands in for a connection to a database with these totals, whose accounts are right."""

    def __init__(self, totals: dict[str, int]) -> None:
        self._totals = totals

    async def fetchrow(self, _query: str) -> dict[str, int]:
        return self._totals

    async def fetch(self, _query: str) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("totals", "examples"),
    [
        (EVEN, []),
        (uneven := {**EVEN, "sales": 31}, [uneven]),
        (unlike := {**EVEN, "balances": 71}, [unlike]),
    ],
    ids=["even", "not zero", "not the balances"],
)
async def test_ledger_that_is_even_has_no_example(totals: dict[str, int], examples: list[dict[str, int]]) -> None:
    db: Any = Totals(totals)
    found = await check_books(db)
    assert found["checks"][1] == {
        "name": "the ledger sums to zero",
        "violations": len(examples),
        "examples": examples,
    }
    assert found["totals"] == totals
