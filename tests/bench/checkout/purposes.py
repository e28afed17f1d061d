"""The purposes of a checkout's work: the names of the queries, relations and functions that keep it safe.

Fences (gates), stored outcomes, the ledger and the saga's record are what a checkout over several services needs
beyond what a checkout is: their share of the CPU is the price of the safety.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tests.bench.checkout.statements import Statement, form

OTHER: Final = "the checkout itself"
# By the tables that a plan's nodes and triggers use; the first match counts.
RELATIONS: Final = (
    ("fences", re.compile(r"^gates$")),
    ("stored outcomes", re.compile(r"^outcomes$")),
    ("ledger", re.compile(r"^entries$")),
    ("saga record", re.compile(r"^sagas$")),
    ("outbox", re.compile(r"^(outbox\w*|shards)$")),
)
# By the functions of a sampled stack, innermost first.
FUNCTIONS: Final = (
    ("fences", re.compile(r"^(\w*_)?gates?$")),
    ("stored outcomes", re.compile(r"^(\w*_)?outcomes?$|shared/participant/protocol\.py:")),
    ("ledger", re.compile(r"^(\w*_)?entries$")),
    ("saga record", re.compile(r"^_?(insert_)?sagas?$|services/order/engine/journal\.py:")),
    ("outbox", re.compile(r"^_?insert_events$|services/relay/")),
)
_CALL = re.compile(r"\b(?:orders|products|coupons|balances|relay)\.\w+ ?\(")
OURS: Final = ("services/", "shared/")
LOOP: Final = "shared/process/main.py"
SAFETY: Final = ("fences", "stored outcomes", "ledger", "saga record")


def of_relation(name: str) -> str:
    """Return a table's purpose."""
    return next((purpose for purpose, pattern in RELATIONS if pattern.search(name)), OTHER)


def of_stack(frames: Sequence[tuple[str, str]]) -> str | None:
    """Return a stack's purpose; None if it is only in the event loop, which serves all purposes.

    `frames`: file and function, innermost first.
    """
    for file, function in frames:
        for purpose, pattern in FUNCTIONS:
            if pattern.search(function.rpartition(".")[2]) or pattern.search(f"{file}:"):
                return purpose
    ours = (file.startswith(OURS) and not file.startswith(LOOP) for file, _ in frames)
    return OTHER if any(ours) else None


def of_service(service: str) -> str | None:
    """Return the purpose of all of a service's work; None if it has several."""
    return "outbox" if service == "relay" else None


def normalised(sums: Mapping[str, float]) -> Mapping[str, float]:
    """Return the same as shares of the total."""
    total = sum(sums.values())
    return {name: value / total for name, value in sums.items()} if total else {}


def sql_purposes(statements: Sequence[Statement], sampled: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    """Return the milliseconds of Postgres' statements by purpose. `sampled`: by query text, shares by purpose.

    A function's statements count instead of the call, as far as they make up its time. What checks a foreign key is
    in the time of the statement that set it off already.
    """
    shares = {form(text): purposes for text, purposes in sampled.items()}
    sums: dict[str, float] = {}
    for service in {statement.service for statement in statements}:
        own = [statement for statement in statements if statement.service == service and not _checks_key(statement)]
        within = sum(statement.milliseconds for statement in own if not statement.toplevel)
        for statement in own:
            milliseconds = statement.milliseconds
            if statement.toplevel and _CALL.search(statement.query):
                counted = min(within, milliseconds)
                within -= counted
                milliseconds -= counted
            of_text = shares.get(form(statement.query), {OTHER: 1.0})
            whole = of_service(service)
            for purpose, share in ({whole: 1.0} if whole else of_text).items():
                sums[purpose] = sums.get(purpose, 0.0) + share * milliseconds
    return sums


def _checks_key(statement: Statement) -> bool:
    return not statement.toplevel and statement.query.startswith("SELECT 1 FROM ONLY")
