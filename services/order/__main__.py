"""Composition root of the order service: settings → sessions, clients → runner, schedulers → server."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from services.order import store
from services.order.admin.api import AdminApi
from services.order.admin.audit_api import AuditApi
from services.order.api import OrderApi
from services.order.audit.books import BookReader
from services.order.audit.passes import Auditor
from services.order.audit.schedule import AuditSchedule
from services.order.checkout import Checkout
from services.order.engine.admission import Admission, Lease
from services.order.engine.operations import Start, Started
from services.order.engine.participants import Participants
from services.order.engine.recovery import Ownership
from services.order.engine.runner import Runner
from services.order.engine.starts import Starts
from services.order.engine.transitions import Change, Changed, Transitions
from services.order.expiry import Expiry
from services.order.retention import prunings
from services.order.settings import Settings
from shared.background import background
from shared.batcher import Batcher, Item, Result, Work, one_by_one_when
from shared.host_clock import HostClock, database_checks
from shared.http.server import HttpServer
from shared.ids import uuid7
from shared.pacing import BatchScheduler
from shared.postgres import DatabaseClock, Pool, Session, is_about_the_batch
from shared.process import Service, main
from shared.pruning import Pruner

# The batchers in the order in which a checkout passes them; as many batches at once as these is no limit.
STEPS = ("starts", "product", "coupon", "balance", "transitions")
COMMIT_BATCH_MAX = 256  # past this the latency of a batch grows faster than throughput
# Of the time a stop may take: how long clients still wait for their sagas, and then sagas for their end.
HURRY_AFTER_SECONDS = 2.0
DRAIN_SECONDS = 2.0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until `stop` is set; what was opened last is closed first."""
    process_id = uuid7()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(Pool(settings, "order"))
        clock = DatabaseClock()
        host_clock = HostClock(clock)
        starts = Starts(
            await enter(Session(settings, "order starts")),
            clock,
            process_id,
            settings.currency,
            settings.payment_timeout_seconds,
        )
        transitions = Transitions(await enter(Session(settings, "order transitions")), clock, process_id)
        scheduler = BatchScheduler(settings.batches_at_once, STEPS) if settings.batches_at_once < len(STEPS) else None
        start_batcher: Batcher[Start, Started] = await enter(_batcher("starts", starts.commit, settings, scheduler))
        transition_batcher: Batcher[Change, Changed | None] = await enter(
            _batcher("transitions", transitions.commit, settings, scheduler)
        )
        participants = await enter(Participants(settings.participant_urls, scheduler=scheduler))
        runner = await enter(Runner(process_id, pool, participants, transition_batcher))
        lease = Lease(settings.lease_seconds)
        admission = Admission(runner.running, settings.sagas_max, (lease.check, host_clock.check))
        checkout = Checkout(
            pool,
            clock,
            start_batcher,
            runner,
            admission,
            deadline_seconds=settings.request_deadline_seconds,
        )
        ownership = Ownership(
            process_id,
            pool,
            runner,
            admission,
            host_clock=host_clock,
            lease=lease,
            lease_pool=await enter(Pool(settings, "order lease", size=1)),
            sweep_seconds=settings.sweep_interval_seconds,
        )
        expiry = Expiry(pool, checkout, runner.running, admission, interval_seconds=settings.expiry_interval_seconds)
        pruner = Pruner(pool, prunings(key_hours=settings.idempotency_hours, saga_days=settings.retention_days))

        books = await enter(BookReader(settings.participant_urls))
        auditor = Auditor(pool, books, grace_seconds=settings.audit_grace_seconds)
        audit = AuditSchedule(process_id, pool, auditor, interval_seconds=settings.audit_interval_seconds)
        readiness = await enter(Session(settings, "order readiness", checked=True))

        async def hurry() -> None:
            await stop.wait()
            await asyncio.sleep(HURRY_AFTER_SECONDS)
            runner.running.hurry()

        server = HttpServer(
            "order",
            "Orders: placed and paid now, or paid later, cancelled, expired.",
            settings,
            OrderApi(
                pool,
                checkout,
                admission,
                client_timeout_seconds=settings.client_timeout_seconds,
                deadline_seconds=settings.request_deadline_seconds,
            ).routes(),
            {**database_checks(readiness, store.ready, host_clock), "lease": ownership.check_lease},
            lambda: {"participants_reachable": participants.reachable()},
        )
        await ownership.renew()
        async with (
            background("lease", ownership.keep_lease),
            background("hurry", hurry),
        ):
            async with (
                background("sweep", ownership.sweep),
                background("expiry", expiry.run),
                background("audit", audit.run),
                background("pruner", pruner.run),
            ):
                await asyncio.gather(server.run(stop), _run_admin(settings, pool, participants, stop))
            await runner.running.drain(DRAIN_SECONDS)
        await ownership.give_up()


def _batcher(
    name: str, work: Work[Item, Result], settings: Settings, scheduler: BatchScheduler | None
) -> Batcher[Item, Result]:
    work = one_by_one_when(is_about_the_batch, work)
    return Batcher(name, work, batch_max=COMMIT_BATCH_MAX, queue_max=settings.sagas_max * 2, scheduler=scheduler)


async def _run_admin(settings: Settings, pool: Pool, participants: Participants, stop: asyncio.Event) -> None:
    """Serve the operators on their own listener, if there is to be one."""
    if settings.admin_port is None:
        return
    routes = [
        *AdminApi(settings, pool, lambda: Session(settings, "order admin")).routes(),
        *AuditApi(settings, pool, participants).routes(),
    ]
    own = settings.model_copy(update={"port": settings.admin_port})
    description = "For operators only: live sagas, the audit, and the repair of both."
    await HttpServer("order admin", description, own, routes, {}).run(stop)


if __name__ == "__main__":
    main(Service("order", Settings, "orders", Path(__file__).parent / "migrations", serve))
