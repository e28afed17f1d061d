"""Entry point of the order service: settings → process → HTTP server and background loops."""

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
from services.order.backlog import Backlog
from services.order.engine.participants import Participants
from services.order.process import Connections, OrderProcess
from services.order.retention import prunings
from services.order.settings import Settings
from shared.http.listeners import listeners
from shared.http.readiness import database_checks
from shared.http.server import HttpServer
from shared.identity.authenticator import Authenticator
from shared.identity.modes import authenticator
from shared.postgres.connections import Pool, Session
from shared.process.main import Service, main
from shared.process.stopping import Stop
from shared.process.tasks import background
from shared.pruning import Pruner

# Shares of the time that a stop may take: for clients to wait for their sagas, and then for sagas to end.
RELEASE_WAITERS_AFTER_SECONDS = 2.0
DRAIN_SECONDS = 2.0


async def serve(settings: Settings, stop: Stop) -> None:
    """Run until `stop` is set; then close everything in reverse order of opening."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        process = await enter(OrderProcess(settings, await enter(Connections.open(settings))))
        pool, recovery, registry = process.pool, process.recovery, process.registry
        rules = prunings(
            key_hours=settings.idempotency_hours,
            rejected_hours=settings.rejected_retention_hours,
            saga_days=settings.retention_days,
        )
        pruner = Pruner(pool, rules)
        urls, slots = settings.participant_urls, settings.audited_slots
        books = await enter(BookReader(urls, settings.credentials, settings.participants_tls, slots))
        auditor = Auditor(
            pool,
            books,
            grace_seconds=settings.audit_grace_seconds,
            shards=settings.product_shards,
            ownership=settings.ownership,
            archived_before=settings.orders_archived_before,
            retention_days=settings.retention_days,
        )
        audit = AuditSchedule(process.process_id, pool, auditor, interval_seconds=settings.audit_interval_seconds)
        readiness = await enter(Session(settings, "order readiness", checked=True))

        async def release_waiters() -> None:
            await stop.wait()
            await asyncio.sleep(RELEASE_WAITERS_AFTER_SECONDS)
            registry.release_waiters()

        identity = await enter(authenticator(settings))
        servers = listeners(
            "order",
            "Orders: placed and paid now, or paid later, cancelled, expired.",
            settings,
            identity,
            OrderApi(
                pool,
                process.checkout,
                process.admission,
                settings.ownership,
                client_timeout_seconds=settings.client_timeout_seconds,
            ).routes(),
            {**database_checks(readiness, store.SQL, process.host_clock), "lease": recovery.check_lease},
            lambda: {"process_id": process.process_id, "participants_reachable": process.participants.reachable()},
        )
        await recovery.renew()
        async with (
            background("lease", recovery.keep_lease),
            background("release waiters", release_waiters),
        ):
            async with (
                background("sweep", recovery.sweep),
                background("expiry", process.expiry.run),
                background("audit", audit.run),
                background("backlog", Backlog(pool).run),
                background("pruner", pruner.run),
            ):
                admin = _run_admin(settings, identity, pool, process.participants, stop)
                await asyncio.gather(*(server.run(stop) for server in servers), admin)
            await registry.drain(DRAIN_SECONDS)
        await recovery.give_up()


async def _run_admin(
    settings: Settings, identity: Authenticator, pool: Pool, participants: Participants, stop: Stop
) -> None:
    """Serve the operators on their own listener, if the settings ask for one."""
    if settings.admin_port is None:
        return
    routes = [
        *AdminApi(settings, pool, lambda: Session(settings, "order admin")).routes(),
        *AuditApi(settings, pool, participants).routes(),
    ]
    own = settings.model_copy(update={"port": settings.admin_port})
    description = "For operators only: live sagas, the audit, and the repair of both."
    await HttpServer("order admin", description, own, identity, routes, {}, audience="operators").run(stop)


if __name__ == "__main__":
    main(
        Service(
            "order",
            Settings,
            "orders",
            Path(__file__).parent / "migrations",
            serve,
            parameters=lambda settings: settings.migration_parameters,
        )
    )
