"""Mutants that survive and are equivalent to the original; each with the reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AcceptedMutant:
    """A line of a function before and after the mutation; `why`: the reason why no test can or need notice it.

    An empty `after` stands for all mutants of the line.
    """

    path: str
    function: str | None
    before: str
    after: str
    why: str


_WIRE = "shared/http/wire.py"
_SAME_INSTANT = "differs only in the instant at which the two times are equal"
_NO_ROWS = "saves a round trip only: the statement writes nothing for no rows"

ACCEPTED: tuple[AcceptedMutant, ...] = (
    AcceptedMutant(
        "shared/http/aiohttp_internals.py",
        "_rejected_immediately",
        "or self.transport is None",
        "",
        "for the type checker: no data arrives after the connection is lost",
    ),
    AcceptedMutant(
        _WIRE, "_read", "if not request.can_read_body:", "if False:", "no body is an empty one, that has ended already"
    ),
    AcceptedMutant(
        _WIRE, "check_unique_members", "if colons < 2:", "if False:", "saves time only: then it parses for nothing"
    ),
    AcceptedMutant(
        _WIRE,
        "check_unique_members",
        'if b"\\\\u003" not in raw and orjson.dumps(orjson.loads(raw)).count(b":") == colons:',
        "if False:",
        "saves time only: the slow way finds the same",
    ),
    AcceptedMutant(
        "shared/pacing.py",
        "on_enqueued",
        "if batcher.waiting - count < MIN_CONCURRENT_BATCH <= batcher.waiting:",
        "if True:",
        "saves time only: while a slot is free and batchers wait, only the minimum size lets one go",
    ),
    AcceptedMutant(
        "shared/postgres/query_check.py",
        "run",
        "while self._left and time.monotonic() < began + PROBE_SECONDS:",
        "while self._left and time.monotonic() <= began + PROBE_SECONDS:",
        _SAME_INSTANT,
    ),
    AcceptedMutant(
        "shared/http/deadline.py",
        "_look",
        "for task in [task for task, end in self._ends.items() if end < looked_at]:",
        "for task in [task for task, end in self._ends.items() if end <= looked_at]:",
        _SAME_INSTANT,
    ),
    AcceptedMutant(
        "services/relay/kafka/positions.py",
        "_last_value",
        "if record.offset < end:",
        "if record.offset <= end:",
        "the record at the end is not stable yet, or was looked at with those after it, which had no value",
    ),
    AcceptedMutant(
        "services/relay/publishing/assignment.py",
        "_forget",
        "with suppress(Unavailable):",
        "",
        "says what is expected: _stop ignores every error of its tasks",
    ),
    AcceptedMutant(
        "services/relay/domain/shards.py",
        "assign",
        "if len(mine) > fair:",
        "if len(mine) >= fair:",
        "with exactly its part, a replica takes and releases nothing either way",
    ),
    AcceptedMutant(
        "shared/leadership.py",
        "is_certain",
        "return asyncio.get_running_loop().time() <= self.certain_until",
        "return asyncio.get_running_loop().time() < self.certain_until",
        _SAME_INSTANT,
    ),
    AcceptedMutant("shared/participant/gates.py", "prune_gates", "if gates:", "if True:", _NO_ROWS),
    AcceptedMutant("services/product/store.py", "write_batch", "if batch.holds:", "if True:", _NO_ROWS),
    AcceptedMutant("services/product/store.py", "write_batch", "if batch.restored:", "if True:", _NO_ROWS),
    AcceptedMutant(
        "services/product/batch.py",
        "fast_path",
        "holds = [command for command in commands if isinstance(command, HoldStock)]",
        "holds = [command for command in commands if True]",
        "for the type checker: all commands are dos, and this service's only do is a hold",
    ),
    *(
        AcceptedMutant(
            f"services/{service}/batch.py",
            "lock",
            f"{before} if {ids} else {{}}{after}",
            f"{before} if True else {{}}{after}",
            "saves a round trip only: the statement reads nothing for no ids",
        )
        for service, before, ids, after in (
            ("product", "held = await store.read_holds(db, undone)", "undone", ""),
            ("product", "return Batch(await store.lock_stock(db, sorted(products))", "products", ", held)"),
            ("balance", "paid = await store.read_paid(db, undone)", "undone", ""),
            ("balance", "return Batch(await store.lock_accounts(db, sorted(users))", "users", ", paid)"),
        )
    ),
    AcceptedMutant(
        "shared/pruning.py",
        "_prune",
        "if count == BATCH_MAX:",
        "if True:",
        "takes longer only: one more rest, after the last batch",
    ),
    AcceptedMutant(
        "shared/fast_dataclass.py",
        None,
        "if TYPE_CHECKING:",
        "",
        "saves time only: the library's dataclasses are frozen at run time as well, which mypy ensures already",
    ),
)
