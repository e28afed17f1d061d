"""Runs sagas: sends the commands and commits the transitions that saga.py decides on.

A runner never concludes anything from a timeout: it repeats a command until its outcome is known. Another process may
take the saga over at any time. Then the runner's next commit matches no row, and the runner reads the saga again.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from uuid import UUID

import structlog
from prometheus_client import Counter, Histogram

from services.order import store
from services.order.domain import SagaId
from services.order.engine.journal import Journal
from services.order.engine.participants import Participants
from services.order.engine.registry import SagaRegistry
from services.order.engine.transitions import TransitionRequest, TransitionResult
from services.order.saga import Command, Saga, Send, Status, Transition, committed, learn, next_move
from services.order.store import Answer
from shared.batcher import Batcher
from shared.participant.protocol import Outcome
from shared.postgres.connections import Pool
from shared.postgres.errors import explain
from shared.process import trace
from shared.process.tasks import LoopSupervisor
from shared.refusals import Unavailable
from shared.tracing import spans

log = structlog.get_logger()

BACKOFF_FIRST_SECONDS = 0.05
BACKOFF_MAX_SECONDS = 5.0
# From this try on, the runner reads the saga again before each try: another process or an operator may have taken it.
TRIES_BEFORE_REREAD = 3
TRIES_BEFORE_STUCK = 12  # about half a minute of failing undos; longer if each call hangs
SAGAS = Counter("sagas_ended_total", "Sagas by how they ended", ["kind", "end"])
SAGA_SECONDS = Histogram("saga_seconds", "Time from a saga's start in this process to its end", ["kind"])
# Cached: the lookup of a metric by its labels takes longer than counting.
_sagas, _saga_seconds = cache(SAGAS.labels), cache(SAGA_SECONDS.labels)
LOST = Counter("saga_transitions_lost_total", "Transitions whose guards matched no row")


class Runner:
    """Runs the sagas of this process."""

    def __init__(
        self,
        process_id: UUID,
        pool: Pool,
        participants: Participants,
        transitions: Batcher[TransitionRequest, TransitionResult | None],
        registry: SagaRegistry,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._process_id = process_id
        self._pool = pool
        self._participants = participants
        self._transitions = transitions
        self._sleep = sleep
        self._registry = registry
        self._supervisors: dict[SagaId, LoopSupervisor] = {}  # one for each saga whose last run failed because of a bug

    def run(self, saga: Saga) -> None:
        """Start a task that runs a saga of this process."""
        self._registry.begin(saga, self._run_guarded(saga))

    async def resume(self, saga_id: SagaId) -> None:
        """Run a saga of this process unless it has a runner."""
        if self._registry.has(saga_id):
            return
        self._registry.claim(saga_id)
        try:
            await self.take_up(saga_id)
        finally:
            self._registry.unclaim(saga_id)

    async def take_up(self, saga_id: SagaId) -> None:
        """Read a claimed saga; run it if it is live and this process owns it."""
        found = await self._read(saga_id)
        if found is not None and found[1] == self._process_id and found[0].status.live:
            self.run(found[0])

    async def _run_guarded(self, saga: Saga) -> Answer | None:
        trace.subject.set({"order_id": saga.order.order_id, "saga_id": saga.saga_id})
        if trace.current.get() is None and saga.traceparent is not None:
            trace.current.set(trace.from_headers({"traceparent": saga.traceparent}))
        # Below the request that began it, which may have been another process'.
        span = spans.enter(spans.continued(f"saga {saga.kind}", saga.traceparent))
        span.set({"order.id": saga.order.order_id, "saga.id": saga.saga_id})
        try:
            began = time.monotonic()
            answer = await self._run(saga)
            _saga_seconds(saga.kind).observe(time.monotonic() - began)
            self._supervisors.pop(saga.saga_id, None)
            return answer
        except asyncio.CancelledError:
            raise
        except LostError as error:
            log.info("saga.lost", detail=str(error))
            span.event("lost")
            self._supervisors.pop(saga.saga_id, None)
            return None
        except Exception as error:  # noqa: BLE001 - after any error the saga must still end
            # The sweep runs it again, after a pause that grows with each failure.
            supervisor = self._supervisors.setdefault(saga.saga_id, LoopSupervisor("saga", "saga.run_failed"))
            supervisor.failed(error)
            span.fail(error)
            await self._sleep(supervisor.pause(BACKOFF_FIRST_SECONDS))
            return None
        finally:
            span.end()
            self._registry.ended(saga.saga_id)

    async def _run(self, saga: Saga) -> Answer | None:
        journal = Journal()
        tries = 0
        while True:
            move = next_move(saga)
            if isinstance(move, Send):
                known, unknown = await self._send(saga, move.commands, journal)
                for command, outcome in known:
                    saga = learn(saga, command, outcome)
                if not unknown:
                    tries = 0
                    continue
                tries += 1
                spans.current.get().event("retry")
                await self._back_off(tries)
                if tries >= TRIES_BEFORE_REREAD:
                    saga, tries = await self._reread(saga, tries)
            else:
                result = await self._commit(saga, move, journal)
                if result is not None:
                    if result.answer is not None:
                        _sagas(saga.kind, result.order.status).inc()
                        spans.current.get().set({"order.status": result.order.status})
                        return result.answer
                    saga = committed(saga, move, result.order)
                    continue
                LOST.inc()
                saga, tries = await self._reread(saga, tries, lost=True)
                if saga.status is move.saga_to:  # the commit has succeeded, and stored the journal
                    journal.committed()
            if not saga.status.live:
                raise LostError(f"saga {saga.saga_id} has ended, by an unconfirmed commit or in another process")

    async def _send(
        self, saga: Saga, commands: Sequence[Command], journal: Journal
    ) -> tuple[list[tuple[Command, Outcome]], list[Command]]:
        """Send commands concurrently; return those with a known outcome, and those without."""
        for command in commands:
            journal.asked(command)
        sent = [self._participants.send(command) for command in commands]
        results: Sequence[Outcome | BaseException]
        if len(sent) == 1:  # every step sends one command; only undos need gather
            results = [await _result(sent[0])]
        else:
            results = await asyncio.gather(*sent, return_exceptions=True)
        known: list[tuple[Command, Outcome]] = []
        unknown: list[Command] = []
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, Outcome) and (result.applied or saga.status is Status.RUNNING):
                known.append((command, result))
                journal.known(command, result)
            elif isinstance(result, Outcome):
                # No participant may refuse an undo. A refused undo has changed nothing, so it is sent again.
                log.error("undo.refused", command=command.type, problem=dict(result.body))
                unknown.append(command)
                journal.unknown(command, f"refused: {result.body.get('detail')}")
            elif isinstance(result, Unavailable):
                unknown.append(command)
                journal.unknown(command, str(result))
            else:
                raise result
        return known, unknown

    async def _commit(self, saga: Saga, transition: Transition, journal: Journal) -> TransitionResult | None:
        """Commit a transition; return None if it lost, or if it is unknown whether it was committed."""
        try:
            result = await self._transitions.submit(TransitionRequest(saga, transition, journal.entries))
        except Unavailable as error:
            log.warning("transition.outcome_unknown", to=transition.saga_to.value, error=explain(error))
            await self._back_off(TRIES_BEFORE_REREAD)
            return None
        journal.committed()
        return result

    async def _reread(self, saga: Saga, tries: int, *, lost: bool = False) -> tuple[Saga, int]:
        """Return the saga as stored now, and the tries. While its status is the same, keep the outcomes of this run."""
        if saga.status is Status.COMPENSATING and tries >= TRIES_BEFORE_STUCK:
            await self._mark_stuck(saga)
        found, tries = await self._read_until_available(saga.saga_id, tries)
        if found is None:
            raise LostError(f"saga {saga.saga_id} ended so long ago that it was pruned")
        stored, owner = found
        if stored.status.live and owner != self._process_id:
            raise LostError(f"saga {saga.saga_id} belongs to {owner} now")
        if stored.status is not saga.status:
            return stored, 0
        if lost:
            await self._back_off(tries + 1)
        return saga, tries + int(lost)

    async def _mark_stuck(self, saga: Saga) -> None:
        log.error("saga.stuck", kind=saga.kind.value, undone=sorted(saga.undone))
        try:
            async with self._pool.connection() as db:
                await store.mark_stuck(db, saga.saga_id, self._process_id)
        except Unavailable as error:
            log.warning("saga.stuck_mark_failed", error=explain(error))

    async def _read_until_available(self, saga_id: SagaId, tries: int) -> tuple[tuple[Saga, UUID] | None, int]:
        while True:
            try:
                return await self._read(saga_id), tries
            except Unavailable:
                tries += 1
                await self._back_off(tries)

    async def _read(self, saga_id: SagaId) -> tuple[Saga, UUID] | None:
        async with self._pool.connection() as db:
            return await store.get_saga(db, saga_id)

    async def _back_off(self, tries: int) -> None:
        ceiling = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(tries, 10))
        await self._sleep(random.uniform(ceiling / 2, ceiling))  # noqa: S311 - spreads retries, guards nothing


async def _result(sent: Awaitable[Outcome]) -> Outcome | Exception:
    try:
        return await sent
    except Exception as error:  # noqa: BLE001 - the caller handles it
        return error


class LostError(Exception):
    """This process no longer runs the saga: another took it over, or it has ended."""
