"""The sampler keeps the figures of 15 minutes, and shows a replica that does not answer as away."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from deploy.console.figures import sampler as module
from deploy.console.figures.live import BY_SERVICE, CHARTS, DURATION
from deploy.console.figures.replicas import Replica
from deploy.console.figures.replicas import Replicas as Known
from deploy.console.figures.sampler import INTERVAL_SECONDS, KEPT_SECONDS, Sampler

URLS = {service: [f"http://{service}"] for service in BY_SERVICE} | {"order": ["http://order-1", "http://order-2"]}


class Replicas:
    """What each replica answers; those without an answer are away."""

    def __init__(self) -> None:
        self.texts = {url: "" for urls in URLS.values() for url in urls}

    async def fetch(self, replica: Replica) -> str:
        if replica.url not in self.texts:
            raise ConnectionRefusedError(replica.url)
        return self.texts[replica.url]


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


def sampler(fetch: Callable[[Replica], Awaitable[str]]) -> Sampler:
    return Sampler(Known(URLS), fetch)


async def test_figures_of_all_replicas_are_added(replicas: Replicas) -> None:
    sampled = sampler(replicas.fetch)
    for count in (0, 100):
        line = f'sagas_ended_total{{end="PAID",kind="place_now"}} {count}\nsagas_running 3\n'
        replicas.texts |= {"http://order-1": line, "http://order-2": line}
        await sampled.round()
    first, second = sampled.points
    assert (first.number, second.number) == (1, 2)
    assert first.figures["checkouts.accepted"] is None
    accepted = second.figures["checkouts.accepted"]
    assert accepted is not None
    assert accepted > 0
    assert second.figures["checkouts.rejected"] == 0
    assert second.figures["sagas.running"] == 6
    assert second.away == []


async def test_refusals_and_latency_come_from_their_metrics(replicas: Replicas) -> None:
    sampled = sampler(replicas.fetch)
    labels = 'http_request_method="POST",http_response_status_code="201",http_route="/v1/orders",url_scheme="http"'
    for count in (0, 10):
        replicas.texts["http://product"] = f'commands_total{{outcome="refused",type="hold_stock"}} {count}\n'
        replicas.texts["http://order-1"] = (
            f'{DURATION}_bucket{{{labels},le="0.1"}} {count}\n{DURATION}_bucket{{{labels},le="+Inf"}} {count}\n'
        )
        await sampled.round()
    figures = sampled.points[-1].figures
    assert figures["refusals.stock"] is not None
    assert figures["refusals.stock"] > 0
    assert figures["refusals.coupon"] == 0
    assert figures["latency.p50"] == pytest.approx(50)
    assert figures["latency.p99"] == pytest.approx(99)


async def test_replica_without_an_answer_is_away_and_the_others_count(replicas: Replicas) -> None:
    sampled = sampler(replicas.fetch)
    replicas.texts["http://order-1"] = "sagas_running 3\n"
    del replicas.texts["http://order-2"], replicas.texts["http://relay"]
    await sampled.round()
    (point,) = sampled.points
    assert point.away == [Replica("order", "http://order-2"), Replica("relay", "http://relay")]
    assert point.figures["sagas.running"] == 3
    assert point.figures["relay.oldest"] is None  # a gap


async def test_hanging_replica_does_not_hold_the_others_up(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.01)

    async def fetch(replica: Replica) -> str:
        if replica.url == "http://coupon":
            await asyncio.Event().wait()
        return await replicas.fetch(replica)

    sampled = sampler(fetch)
    async with asyncio.timeout(5):
        await sampled.round()
    assert sampled.points[-1].away == [Replica("coupon", "http://coupon")]


async def test_replica_that_came_back_at_another_address_begins_anew(replicas: Replicas) -> None:
    addresses = ["10.0.0.1"]

    async def lookup(name: str) -> list[str]:
        return addresses if name == "order" else []

    known = Known({"order": ["http://order:1"]}, lookup)
    sampled = Sampler(known, replicas.fetch)
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        addresses[:] = [address]
        replicas.texts[f"http://{address}:1"] = ""
        await known.round()
        await sampled.round()
        ((replica, reading),) = sampled.readings.items()
        assert replica.url == f"http://{address}:1"
        assert reading.before is None  # what an address told before is not kept once it is gone


async def test_memory_is_bounded_to_15_minutes(replicas: Replicas) -> None:
    sampled = sampler(replicas.fetch)
    most = int(KEPT_SECONDS / INTERVAL_SECONDS)
    for _ in range(most + 3):
        await sampled.round()
    assert len(sampled.points) == most
    assert [point.number for point in sampled.since(most + 1)] == [most + 2, most + 3]


async def test_who_waits_for_a_point_is_woken_by_it_and_by_the_end(replicas: Replicas) -> None:
    sampled = sampler(replicas.fetch)
    async with asyncio.timeout(5):
        waiting = asyncio.create_task(sampled.wait(0))
        await asyncio.sleep(0)
        await sampled.round()
        await waiting
        waiting = asyncio.create_task(sampled.wait(1))
        await asyncio.sleep(0)
        sampled.close()
        await waiting


def test_every_service_has_its_figures() -> None:
    names = [f"{chart.name}.{figure.name}" for chart in CHARTS for figure in chart.figures]
    assert len(set(names)) == len(names)
