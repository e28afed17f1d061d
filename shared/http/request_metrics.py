"""Counts and times requests once, and reports them under the names of the semantic conventions and the older ones."""

from collections.abc import Callable, Iterator
from functools import cache

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Time to answer",
    ["http_request_method", "http_route", "http_response_status_code", "url_scheme"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
ACTIVE = Gauge("http_server_active_requests", "Requests being handled")
IN_FLIGHT = Gauge("http_requests_in_flight", "The older name of http_server_active_requests")
# By our label: how the conventions write a method or a route that isn't one of the API's.
OTHERS = {"other": "_OTHER", "unknown": ""}
OUR_OTHERS = {theirs: ours for ours, theirs in OTHERS.items()}


@cache  # to look a metric up by its labels takes longer than to count; there are few combinations of labels
def _duration(method: str, route: str, status: int, scheme: str) -> Histogram:
    return DURATION.labels(OTHERS.get(method, method), OTHERS.get(route, route), status, scheme)


def observe(method: str, route: str, status: int, scheme: str, seconds: float) -> None:
    """Count an answer and its time. If the path is not the API's, `route` is "unknown" and `method` is "other"."""
    _duration(method, route, status, scheme).observe(seconds)


def watch_active(count: Callable[[], int]) -> None:
    """Report what `count` returns as the number of requests being handled."""
    ACTIVE.set_function(count)
    IN_FLIGHT.set_function(count)


class OlderNames(Collector):
    """Reports the same requests by their older names, so that nothing is counted twice."""

    def collect(self) -> Iterator[Metric]:
        """Add up what has the older labels in common: they have no scheme, and the histogram has no status."""
        buckets: dict[tuple[str, str], dict[str, float]] = {}
        sums: dict[tuple[str, str], float] = {}
        answers: dict[tuple[str, str, str], float] = {}
        for sample in (sample for family in DURATION.collect() for sample in family.samples):
            method, route = sample.labels["http_request_method"], sample.labels["http_route"]
            place = OUR_OTHERS.get(method, method), OUR_OTHERS.get(route, route)
            if sample.name.endswith("_bucket"):
                of_place = buckets.setdefault(place, {})
                of_place[sample.labels["le"]] = of_place.get(sample.labels["le"], 0.0) + sample.value
            elif sample.name.endswith("_sum"):
                sums[place] = sums.get(place, 0.0) + sample.value
            elif sample.name.endswith("_count"):
                answer = (*place, sample.labels["http_response_status_code"])
                answers[answer] = answers.get(answer, 0.0) + sample.value
        times = HistogramMetricFamily("http_request_seconds", "Time to answer", labels=["method", "route"])
        for place, of_place in buckets.items():
            times.add_metric(place, list(of_place.items()), sums[place])
        counts = CounterMetricFamily("http_responses_total", "Responses", labels=["method", "route", "status"])
        for answer, value in answers.items():
            counts.add_metric(answer, value)
        yield from (times, counts)


async def show(request: web.Request) -> web.Response:
    """Answer with all metrics of this process, or with those that the query names."""
    names = request.query.getall("name[]", [])
    metrics = REGISTRY.restricted_registry(names) if names else REGISTRY
    return web.Response(body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})


REGISTRY.register(OlderNames())
