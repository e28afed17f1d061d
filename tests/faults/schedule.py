"""A seeded schedule of faults, with the number of live sagas at each fault."""

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from tests.faults.cluster import LEASE_SECONDS, PARTICIPANTS, REPLICAS, Cluster
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.own_postgres import OwnPostgres
from tests.infrastructure.proxy import Mode
from tests.infrastructure.sagas import LIVE
from tests.infrastructure.waiting import POLL_SECONDS

WAIT_FOR_A_TARGET_SECONDS = 1.0  # a fault without a live saga proves nothing

Strike = Callable[[random.Random], Awaitable[None]]


@dataclass
class Fault:
    """One kind of fault on one target; `needs` names what no other fault may affect at the same time."""

    name: str
    needs: tuple[str, ...]
    weight: int
    strike: Strike


@dataclass
class Faults:
    """Injects faults until it is stopped, and counts them."""

    cluster: Cluster
    rng: random.Random
    hits: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _busy: set[str] = field(default_factory=set)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, seconds: float, pause_seconds: float) -> None:
        """Begin a fault about every `pause_seconds` for `seconds`; return when all are healed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        watcher = await asyncpg.create_pool(self.cluster.database.url, min_size=0, max_size=1)
        faults = self._faults()
        try:
            while loop.time() < end:
                free = [fault for fault in faults if not self._busy & set(fault.needs)]
                if free:
                    (fault,) = self.rng.choices(free, [fault.weight for fault in free])
                    self._begin(fault, watcher)
                await asyncio.sleep(self.rng.uniform(0.5, 1.5) * pause_seconds)
            if self._running:
                await asyncio.wait(self._running)
        finally:
            watcher.terminate()

    def report(self) -> str:
        """Return a line per kind of fault: how often it happened, and how many live sagas it hit."""
        lines = [
            f"{name:<34} {len(hits):>4} times  {sum(hits):>6} live sagas  {sum(map(bool, hits)):>4} times at least one"
            for name, hits in sorted(self.hits.items())
        ]
        return "\n".join(lines)

    def _begin(self, fault: Fault, watcher: asyncpg.Pool) -> None:
        self._busy |= set(fault.needs)
        task = asyncio.create_task(self._strike(fault, watcher))
        self._running.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._busy.difference_update(fault.needs)
            task.result()

        task.add_done_callback(done)

    async def _strike(self, fault: Fault, watcher: asyncpg.Pool) -> None:
        self.hits[fault.name].append(await self._live(watcher))
        await fault.strike(self.rng)

    async def _live(self, watcher: asyncpg.Pool) -> int:
        """Wait briefly for a live saga, and return how many there are."""
        loop = asyncio.get_running_loop()
        end = loop.time() + WAIT_FOR_A_TARGET_SECONDS
        while True:
            try:
                live = int(await watcher.fetchval(LIVE, timeout=1))
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                live = 0  # Postgres is the target of another fault at present
            if live or loop.time() > end:
                return live
            await asyncio.sleep(POLL_SECONDS)

    def _faults(self) -> list[Fault]:
        faults = [Fault("postgres stopped -m immediate", ("postgres",), 3, self._stop_postgres)]
        faults.append(Fault("broker away", ("broker",), 1, self._pause_broker))
        if isinstance(self.cluster.broker, OwnBroker):
            faults.append(Fault("broker kill -9", ("broker",), 1, self._kill_broker))
        for name in (*REPLICAS, *PARTICIPANTS, "relay"):
            weight = 1 if name == "relay" else 2
            faults += [
                Fault(f"{name} kill -9", (name,), weight, self._killer(name)),
                Fault(f"{name} SIGSTOP", (name,), weight, self._pauser(name)),
            ]
        faults += [Fault(f"{name} SIGTERM", (name,), 1, self._stopper(name)) for name in REPLICAS]
        for way in self.cluster.ways:
            kind = "postgres" if way.endswith("postgres") else "participants"
            faults.append(Fault(f"connections to {kind} reset", (way,), 1, self._cutter(way)))
            for mode in (Mode.CLOSED, Mode.SILENT, Mode.DEAF):
                name = f"way to {kind} {mode.name.lower()}"
                faults.append(Fault(name, (way,), 1, self._blocker(way, mode)))
        return faults

    def _killer(self, name: str) -> Strike:
        async def kill(rng: random.Random) -> None:
            process = self.cluster.processes[name]
            process.send(signal.SIGKILL)
            await process.ended()
            await asyncio.sleep(rng.uniform(0, 1))
            process.start()
            await self._back(name)

        return kill

    def _pauser(self, name: str) -> Strike:
        async def pause(rng: random.Random) -> None:
            process = self.cluster.processes[name]
            process.send(signal.SIGSTOP)
            # A replica is paused long enough to lose its sagas; a participant sometimes beyond the caller's timeout.
            await asyncio.sleep(LEASE_SECONDS + rng.uniform(0.5, 2) if name in REPLICAS else rng.uniform(0.3, 6))
            process.send(signal.SIGCONT)

        return pause

    def _stopper(self, name: str) -> Strike:
        async def stop(_: random.Random) -> None:
            process = self.cluster.processes[name]
            process.send(signal.SIGTERM)
            await process.ended()
            process.start()
            await self._back(name)

        return stop

    async def _back(self, name: str) -> None:
        """Wait until a process serves; it can't while another fault affects Postgres."""
        await self.cluster.processes[name].ready()

    def _cutter(self, way: str) -> Strike:
        async def cut(rng: random.Random) -> None:
            for _ in range(rng.randint(1, 5)):
                self.cluster.ways[way].cut()
                await asyncio.sleep(rng.uniform(0, 0.2))

        return cut

    def _blocker(self, way: str, mode: Mode) -> Strike:
        async def block(rng: random.Random) -> None:
            self.cluster.ways[way].set(mode)
            await asyncio.sleep(rng.uniform(0.2, 2))
            self.cluster.ways[way].set(Mode.OPEN)

        return block

    async def _stop_postgres(self, rng: random.Random) -> None:
        postgres = self.cluster.postgres
        assert isinstance(postgres, OwnPostgres)
        await asyncio.to_thread(postgres.stop_immediately)
        await asyncio.sleep(rng.uniform(0, 1))
        postgres.start()
        await asyncio.to_thread(postgres.wait)

    async def _pause_broker(self, rng: random.Random) -> None:
        self.cluster.broker.pause()
        await asyncio.sleep(rng.uniform(1, 4))
        self.cluster.broker.wake()

    async def _kill_broker(self, rng: random.Random) -> None:
        broker = self.cluster.broker
        assert isinstance(broker, OwnBroker)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(rng.uniform(0, 2))
        await asyncio.to_thread(broker.start)
