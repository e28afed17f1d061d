"""Holds the state of one history: its clock, random numbers, databases and the rates of its faults."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from random import Random

from services.order.product_shards import shards_of
from services.order.saga import Participant
from tests.simulation import invariants
from tests.simulation.loop import WORLD, WORLD_CONTEXT, Actor, VirtualLoop, current
from tests.simulation.memory.orders import OrdersDatabase
from tests.simulation.memory.participants import (
    BalancesDatabase,
    CouponsDatabase,
    ParticipantDatabase,
    ProductsDatabase,
)
from tests.simulation.memory.tables import Database

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
LEASE_SECONDS = 2.0
SHARDS_MAX = 3
# Replicas' wall clocks are off by up to this much, either way; nothing may rest on them.
CLOCK_SKEW_SECONDS = 7200.0


@dataclass(slots=True)
class FaultRates:
    """The probability of each kind of fault, per occasion. Each history has its own, and some kinds are absent, so that
    some histories show the effect of one kind alone."""

    message_lost: float = 0.0
    message_late: float = 0.0
    message_repeated: float = 0.0
    reply_lost: float = 0.0
    reply_reset: float = 0.0
    database_refuses: float = 0.0
    commit_result_lost: float = 0.0
    process_killed: float = 0.0
    process_paused: float = 0.0
    process_stopped: float = 0.0
    operator_forces: float = 0.0
    participant_prunes: float = 0.0

    @classmethod
    def drawn(cls, rng: Random) -> "FaultRates":
        """Return random rates, from low to high."""
        worst = rng.choice((0.02, 0.08, 0.2))
        drawn = {field.name: rng.choice((0.0, rng.random() * worst)) for field in fields(cls)}
        return cls(**{kind: likely * WEIGHTS.get(kind, 1.0) for kind, likely in drawn.items()})


NO_FAULTS = FaultRates()
# A process fault is possible at every step, and costs seconds. At the rate of the other faults, no saga would end.
# Messages are fewer than statements, and their faults have the greatest effect.
WEIGHTS = {
    **dict.fromkeys(("process_killed", "process_paused", "process_stopped"), 0.15),
    **dict.fromkeys(("message_lost", "message_late", "message_repeated", "reply_lost", "reply_reset"), 2.0),
}


class World:
    """The state of a history. All of it is derived from the seed."""

    def __init__(self, seed: int, *, recording: bool = False) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.loop = VirtualLoop()
        self._fault_rates_drawn = self.fault_rates = FaultRates.drawn(self.rng)
        self.orders = OrdersDatabase(self.clock)
        # A third of the histories has one product service, the others have two or three product shards.
        self.product_shards = shards_of([((), f"http://{number}") for number in range(1 + seed % SHARDS_MAX)])[0]
        self.products = {place: ProductsDatabase(self.clock) for place in self.product_shards.places}
        self.coupons = CouponsDatabase(self.clock)
        self.balances = BalancesDatabase(self.clock)
        self.participants: dict[str, ParticipantDatabase] = {
            **self.products,
            Participant.COUPON.value: self.coupons,
            Participant.BALANCE.value: self.balances,
        }
        self.after_commit: Callable[[], None] | None = None
        self.hash = 0
        self.hits: dict[str, int] = {}
        self.trace: list[str] | None = [] if recording else None

    def clock(self) -> datetime:
        """Return the time by the databases' clock."""
        return EPOCH + timedelta(seconds=self.loop.time())

    def wall_clock(self) -> datetime:
        """Return the time by the clock of the current actor. A replica's may be hours off."""
        return self.clock() + timedelta(seconds=current.get().clock_skew_seconds)

    def note(self, what: str) -> None:
        """Add a line to the trace. Two runs of a seed must produce the same lines."""
        line = f"{self.loop.time():.6f} {current.get().name} {what}"
        self.hash = zlib.crc32(line.encode(), self.hash)
        if self.trace is not None:
            self.trace.append(line)

    def happens(self, kind: str) -> bool:
        """Decide at random whether a fault of this kind happens now; count it if it does."""
        likely: float = getattr(self.fault_rates, kind)
        if likely == 0.0 or self.rng.random() >= likely:
            return False
        self.hits[kind] = self.hits.get(kind, 0) + 1
        self.note(kind)
        return True

    def suspend_faults(self) -> None:
        """Let no fault happen until `resume_faults`."""
        self.fault_rates = NO_FAULTS

    def resume_faults(self) -> None:
        """Let faults happen again at the history's rates, unless `end_faults` was called."""
        self.fault_rates = self._fault_rates_drawn

    def end_faults(self) -> None:
        """Let no fault happen any more."""
        self._fault_rates_drawn = self.fault_rates = NO_FAULTS

    def some_delay(self) -> float:
        """Return a duration in seconds: usually some milliseconds, rarely half a second."""
        return self.rng.random() * (0.5 if self.rng.random() < 0.03 else 0.01)

    async def delay(self) -> None:
        """Let the time of a network hop pass. A fault may hit the current process meanwhile."""
        actor = current.get()
        if actor is not WORLD:
            self._inject_process_fault(actor)
        await asyncio.sleep(self.some_delay())

    def _inject_process_fault(self, actor: Actor) -> None:
        if self.happens("process_killed"):
            actor.alive = False
        elif self.happens("process_paused"):
            self.loop.freeze(actor)
            seconds = self.rng.random() * 5 * LEASE_SECONDS
            self.loop.call_later(seconds, self.wake, actor, context=WORLD_CONTEXT)
        elif self.happens("process_stopped"):
            actor.stopping.set()

    def wake(self, actor: Actor) -> None:
        """End a pause."""
        if actor.frozen is not None:
            self.note(f"wakes {actor.name}")
            self.loop.wake(actor)

    def committed(self, database: Database) -> None:
        """Commit, and check the invariants. A violation ends the history, even if its caller catches the error."""
        if not database.commit():
            return
        self.note(f"commits {type(database).__name__}")
        try:
            invariants.check(self.orders, self.products.values(), self.coupons, self.balances)
        except invariants.ViolationError as error:
            self.loop.fail(error)
        if self.after_commit is not None:
            self.after_commit()
