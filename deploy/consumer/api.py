"""The consumer's HTTP side: how far the records are proven complete, which records could not be read, and health."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from operator import itemgetter
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from . import store
from .completeness import proven_over, proven_topics
from .runtime import REGISTRY, Pool, Unavailable
from .settings import ConsumerSettings
from .stopping import Stop

log = structlog.get_logger()

LIST_MAX = 100
CHECK_SECONDS = 0.8  # a load balancer commonly waits one second for a probe

Check = Callable[[], Awaitable[object]]  # raises if the consumer is not ready


class Api:
    """The routes and their answers. `checks` are asked by /readyz, by name."""

    def __init__(self, settings: ConsumerSettings, pool: Pool, checks: Mapping[str, Check], stop: Stop) -> None:
        self._settings = settings
        self._pool = pool
        self._checks = checks
        self._stop = stop
        self._round: asyncio.Task[dict[str, str]] | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve during the body. Raises OSError if the port can't be used."""
        app = web.Application(middlewares=[self._answer])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/completeness", self._completeness)
        app.router.add_get("/v1/dead-letters", self._dead_letters)
        settings = self._settings
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=settings.client_timeout_seconds * 2,
            shutdown_timeout=settings.shutdown_seconds,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            log.info("server.listening", host=settings.host, port=settings.port)
            self._stop.listening = True
            yield
        finally:
            await runner.cleanup()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Answer within the request's deadline, and answer every failure with a problem (RFC 9457)."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.request_deadline_seconds):
                response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            response = _problem(request, error.status, error.reason.lower().replace(" ", "-"), error.reason)
        except (Unavailable, TimeoutError):
            response = _problem(request, 503, "unavailable", "a dependency did not answer")
            response.headers["Retry-After"] = "1"
        except Exception:
            log.exception("request.failed", method=request.method, route=_route(request))
            response = _problem(request, 500, "bug", "this is a bug; the log has its trace")
        if self._stop.announced:
            response.force_close()
        level = self._settings.access_log
        if level == "all" or (level == "errors" and response.status >= 500):
            seconds = round(time.monotonic() - began, 4)
            known = {"method": request.method, "route": _route(request), "status": response.status, "seconds": seconds}
            log.info("request.answered", **known)
        return response

    async def _livez(self, _request: web.Request) -> web.Response:
        return _reply({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        # Probes that come while the checks run share their results, so that they add no load to a slow database.
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._run_checks())
        checks = dict(await asyncio.shield(self._round))
        if self._stop.announced:
            checks["process"] = "is stopping"
        ready = all(result == "ok" for result in checks.values())
        return _reply({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)

    async def _run_checks(self) -> dict[str, str]:
        results = await asyncio.gather(*map(_result, self._checks.values()))
        return dict(zip(self._checks, results, strict=True))

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _completeness(self, _request: web.Request) -> web.Response:
        topics = list(self._settings.sources)
        async with self._pool.connection() as db:
            watermarks = {topic: await store.watermark(db, topic) for topic in topics}
            proven = await proven_topics(db, topics)
            unproven = [row for topic in topics for row in await store.unproven_buckets(db, topic, LIST_MAX)]
            repaired = [row for topic in topics for row in await store.repaired_buckets(db, topic, LIST_MAX)]
            forged = await store.forged_events(db, LIST_MAX, False)
            lost = await store.forged_events(db, LIST_MAX, True)
            counts = await store.counts(db)
        reached = [one for one in watermarks.values() if one is not None]
        complete = reached if len(reached) == len(topics) else []
        compared = [one["checked_up_to"] for one in complete if one["checked_up_to"] is not None]
        up_to, waits_for = proven_over(proven)
        body = {
            "watermark": min((one["up_to"] for one in complete), default=None),
            "compared_up_to": min(compared) if len(compared) == len(topics) else None,
            "proven_up_to": up_to,
            "parked_count": sum(one["missing_count"] for one in reached),
            "parked": [event for one in reached for event in one["missing"]],
            "waiting_orders": counts["waiting_orders"],
            "dead_letters": counts["dead_letters"],
            "forged_count": counts["forged_events"],
            "forged": _listed(forged, topics),
            "lost_count": counts["lost_events"],
            "lost": _listed(lost, topics),
            "unproven": _listed(sorted(unproven, key=itemgetter("bucket", "topic", "shard"))[:LIST_MAX], topics),
            "repaired": _listed(sorted(repaired, key=itemgetter("bucket"), reverse=True)[:LIST_MAX], topics),
        }
        if len(topics) > 1:
            body["waits_for"] = waits_for
            body["topics"] = [{"topic": topic, "proven_up_to": up_to} for topic, up_to in proven.items()]
        return _reply(body)

    async def _dead_letters(self, _request: web.Request) -> web.Response:
        async with self._pool.connection() as db:
            letters = await store.dead_letters(db, LIST_MAX)
        names = ("topic", "partition", "order_id", "sequence", "reason", "received_at")
        return _reply(
            {"items": [{**{name: row[name] for name in names}, "offset": row["record_offset"]} for row in letters]}
        )


def _listed(rows: Sequence[store.Row], topics: Sequence[str]) -> list[dict[str, Any]]:
    """Return rows as JSON objects, with their topic if there are several."""
    return [{name: value for name, value in row.items() if name != "topic" or len(topics) > 1} for row in rows]


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical


async def _result(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS} s"
    except Exception as error:  # noqa: BLE001 - the answer is the error
        return f"{type(error).__name__}: {error}"
    return "ok"


def _reply(body: Any, status: int = 200) -> web.Response:
    """Return a JSON response; timestamps are RFC 3339 in UTC."""
    return web.Response(text=json.dumps(body, default=_json), status=status, content_type="application/json")


def _json(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def _problem(request: web.Request, status: int, slug: str, detail: str) -> web.Response:
    title = slug.replace("-", " ").capitalize()
    body = {"type": f"/problems/{slug}", "title": title, "status": status, "detail": detail, "instance": request.path}
    return web.Response(text=json.dumps(body), status=status, content_type="application/problem+json")
