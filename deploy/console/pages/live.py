"""Live: checkouts, latency, refusals, batches, sagas and the relay over the last 15 minutes."""

from collections.abc import Mapping, Sequence

from aiohttp import web

from deploy.console.figures.live import CHARTS
from deploy.console.figures.sampler import INTERVAL_SECONDS, Point
from deploy.console.routes import Page, Route
from deploy.console.visit import Visit
from shared.contracts.scopes import Scope

# The figures at the top.
TILES = ("checkouts.accepted", "latency.p99", "sagas.running", "sagas.stuck", "relay.oldest")
MEAN_SECONDS = 60.0


async def _show(visit: Visit) -> web.Response:
    points = visit.parts.sampler.since(0)
    names = [f"{chart.name}.{figure.name}" for chart in CHARTS for figure in chart.figures]
    return visit.page(
        "live.html",
        charts=CHARTS,
        tiles=TILES,
        units={f"{chart.name}.{figure.name}": chart.unit for chart in CHARTS for figure in chart.figures},
        summary={name: summary(points, name) for name in names},
        away=points[-1].away if points else (),
        replicas=len(visit.parts.sampler.replicas),
        at=points[-1].at if points else None,
    )


async def _stream(visit: Visit) -> web.StreamResponse:
    return await visit.parts.streams.serve(visit.request, visit.parts.sampler, visit.is_allowed)


def summary(points: Sequence[Point], name: str) -> Mapping[str, float | None]:
    """Return a figure now, its mean of the last minute, and its highest value of all."""
    values = [point.figures[name] for point in points]
    known = [value for value in values if value is not None]
    minute = [value for value in values[-int(MEAN_SECONDS / INTERVAL_SECONDS) :] if value is not None]
    return {
        "now": values[-1] if values else None,
        "mean": sum(minute) / len(minute) if minute else None,
        "highest": max(known, default=None),
    }


PAGE = Page(
    "live",
    "/",
    Scope.OPS_READ,
    (Route("GET", "/", _show, Scope.OPS_READ), Route("GET", "/live/stream", _stream, Scope.OPS_READ)),
)
