"""The world of one history: its clock, its dice, its databases, and how bad the weather is."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from random import Random

from tests.simulation import books
from tests.simulation.loop import WORLD, WORLD_CONTEXT, Actor, VirtualLoop, current
from tests.simulation.memory.orders import OrdersDatabase
from tests.simulation.memory.participants import BalancesDatabase, CouponsDatabase, ProductsDatabase
from tests.simulation.memory.tables import Database

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
LEASE_SECONDS = 2.0
# Replicas' wall clocks are off by up to this much, either way; nothing may rest on them.
CLOCK_SKEW_SECONDS = 7200.0


@dataclass(slots=True)
class Weather:
    """How likely each kind of trouble is, per occasion. Drawn anew for each history, and each kind is sometimes
    absent: what never fails brings out what one kind of failure alone does."""

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
    participant_forgets: float = 0.0

    @classmethod
    def drawn(cls, dice: Random) -> "Weather":
        """Return a weather, from calm to stormy."""
        worst = dice.choice((0.02, 0.08, 0.2))
        drawn = {field.name: dice.choice((0.0, dice.random() * worst)) for field in fields(cls)}
        return cls(**{kind: likely * WEIGHTS.get(kind, 1.0) for kind, likely in drawn.items()})


CALM = Weather()
# A process can be struck at every step it takes, and then loses seconds: as often as the others, and no saga would
# get anywhere. Messages are fewer than statements, and what becomes of them matters most.
WEIGHTS = {
    **dict.fromkeys(("process_killed", "process_paused", "process_stopped"), 0.15),
    **dict.fromkeys(("message_lost", "message_late", "message_repeated", "reply_lost", "reply_reset"), 2.0),
}


class World:
    """Everything a history has, made from its seed and nothing else."""

    def __init__(self, seed: int, *, recording: bool = False) -> None:
        self.seed = seed
        self.dice = Random(seed)
        self.loop = VirtualLoop()
        self.weather = Weather.drawn(self.dice)
        self.orders = OrdersDatabase(self.clock)
        self.products = ProductsDatabase(self.clock)
        self.coupons = CouponsDatabase(self.clock)
        self.balances = BalancesDatabase(self.clock)
        self.after_commit: Callable[[], None] | None = None
        self.hash = 0
        self.hits: dict[str, int] = {}
        self.trace: list[str] | None = [] if recording else None

    def clock(self) -> datetime:
        """Return the time by the databases' clock."""
        return EPOCH + timedelta(seconds=self.loop.time())

    def wall_clock(self) -> datetime:
        """Return the time by the clock of whoever asks; a replica's may be hours off."""
        return self.clock() + timedelta(seconds=current.get().clock_skew_seconds)

    def note(self, what: str) -> None:
        """Take something that happened into the trace; two runs of a seed must note the same."""
        line = f"{self.loop.time():.6f} {current.get().name} {what}"
        self.hash = zlib.crc32(line.encode(), self.hash)
        if self.trace is not None:
            self.trace.append(line)

    def happens(self, kind: str) -> bool:
        """Throw the dice for one kind of trouble, and count it."""
        likely: float = getattr(self.weather, kind)
        if likely == 0.0 or self.dice.random() >= likely:
            return False
        self.hits[kind] = self.hits.get(kind, 0) + 1
        self.note(kind)
        return True

    def calm_down(self) -> None:
        """From now on nothing fails any more."""
        self.weather = CALM

    def some_delay(self) -> float:
        """Return how long something takes that usually takes milliseconds."""
        return self.dice.random() * (0.5 if self.dice.random() < 0.03 else 0.01)

    async def travel(self) -> None:
        """Let time pass, as on the way to another machine; the traveller's process may be struck on the way."""
        actor = current.get()
        if actor is not WORLD:
            self._strike(actor)
        await asyncio.sleep(self.some_delay())

    def _strike(self, actor: Actor) -> None:
        if self.happens("process_killed"):
            actor.alive = False
        elif self.happens("process_paused"):
            self.loop.freeze(actor)
            seconds = self.dice.random() * 5 * LEASE_SECONDS
            self.loop.call_later(seconds, self.wake, actor, context=WORLD_CONTEXT)
        elif self.happens("process_stopped"):
            actor.stopping.set()

    def wake(self, actor: Actor) -> None:
        """End a pause."""
        if actor.frozen is not None:
            self.note(f"wakes {actor.name}")
            self.loop.wake(actor)

    def committed(self, database: Database) -> None:
        """Check the books after a commit; a violation ends the history, whatever the code in between catches."""
        if not database.commit():
            return
        self.note(f"commits {type(database).__name__}")
        try:
            books.check(self.orders, self.products, self.coupons, self.balances)
        except books.ViolationError as error:
            self.loop.fail(error)
        if self.after_commit is not None:
            self.after_commit()
