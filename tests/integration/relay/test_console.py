"""The console's page Outbox beside a relay: parked events and the acts on them, and replays."""

from collections.abc import AsyncIterator

import pytest

from deploy.console.pages.outbox import share
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.services import Client
from tests.integration.console.serving import Answer, Browser, console
from tests.integration.relay.operators import an_order, parked_order, statuses_of

WHY = {"reason": "a test", "by": "sue"}


@pytest.fixture
async def browser(served: tuple[Client, Client]) -> AsyncIterator[Browser]:
    public, admin = served
    async with console(relay_url=public.url, relay_admin_url=admin.url, relay_replicas=public.url) as found:
        yield found


async def confirm(browser: Browser, path: str, tried: Answer) -> Answer:
    """Confirm what a page has tried."""
    return await browser.post(path, tried.hidden())


async def test_parked_event_is_redacted_and_its_order_retried(pipeline: Pipeline, browser: Browser) -> None:
    events = await parked_order(pipeline, 2, payload=an_order(lines=3))
    order_id, first = str(events[0].order_id), events[0].event_id
    shown = await browser.get("/outbox")
    assert shown.has("Parked events: 2", order_id, "MessageSizeTooLargeError", "follows a parked event")
    assert shown.has(f"/outbox/{first}/skip")
    assert f"/outbox/{events[1].event_id}/skip" not in shown.text
    for name in ("redact", "retry"):
        path = f"/outbox/{first}/{name}"
        tried = await browser.submit(path, path, **WHY)
        assert tried.has("<h1>Confirm</h1>", order_id, "order.paid.v1")
        done = await confirm(browser, path, tried)
        assert (done.status, done.headers["Location"]) == (303, f"/outbox?done={name}")
    await pipeline.until_sent(2)
    after = await browser.get("/outbox?done=retry")
    assert after.has("Done and recorded: Retry.", "Parked events: 0", "Redact", "sue", "a test")


async def test_skipped_event_is_never_published(pipeline: Pipeline, browser: Browser) -> None:
    events = await parked_order(pipeline, 2)
    path = f"/outbox/{events[0].event_id}/skip"
    tried = await browser.submit(path, path, **WHY)
    assert tried.has('class="danger"')
    assert (await confirm(browser, path, tried)).status == 303
    await pipeline.until_sent(1)
    assert await statuses_of(pipeline, events[0].order_id) == ["SKIPPED", "SENT"]


async def test_refused_act_says_why(pipeline: Pipeline, browser: Browser) -> None:
    events = await parked_order(pipeline, 2)
    path = f"/outbox/{events[1].event_id}/skip"
    assert (await browser.submit(path, path, **WHY)).has("None of it is possible now.")


async def test_all_parked_events_are_retried_at_once(pipeline: Pipeline, browser: Browser) -> None:
    await parked_order(pipeline, 2)
    await parked_order(pipeline, 1, shard=3)
    path = "/outbox/all/retry"
    tried = await browser.submit("/outbox", path, **WHY)
    assert tried.has("Retry 2")
    assert (await confirm(browser, path, tried)).has("2 of 2 done and recorded.")
    await pipeline.until_sent(3)


async def test_replay_is_started_and_shown_with_its_progress(pipeline: Pipeline, browser: Browser) -> None:
    events = await parked_order(pipeline, 1)
    new = "/outbox/replays/new"
    started = await browser.submit(new, new, topic="again", order_id=str(events[0].order_id), **WHY)
    assert (started.status, started.headers["Location"]) == (303, "/outbox#replays")
    assert (await browser.get("/outbox")).has("again", "<progress", "a test")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"order_id": "x"}, "This is no order&#39;s id."),
        ({"type": "order.made.v1"}, "There is no such type."),
        ({"from": "yesterday"}, "The beginning is no time."),
        ({"to": "2026-13-01T00:00"}, "The end is no time."),
        ({"reason": ""}, "Say why, and who you are."),
    ],
)
async def test_replay_with_a_wrong_field_is_asked_again(browser: Browser, fields: dict[str, str], text: str) -> None:
    new = "/outbox/replays/new"
    answer = await browser.submit(new, new, **{"topic": "again", **WHY, **fields})
    assert (answer.status, answer.has(text, 'value="again"')) == (400, True)


async def test_replay_that_the_relay_refuses_says_why(pipeline: Pipeline, browser: Browser) -> None:
    new = "/outbox/replays/new"
    answer = await browser.submit(new, new, topic=pipeline.topic, type="order.paid.v1", **WHY)
    assert (answer.status, answer.has("is not for replays")) == (400, True)


async def test_what_waits_is_shown_for_each_shard(browser: Browser) -> None:
    assert (await browser.get("/outbox")).has("No relay answers.")
    await browser.parts.sampler.round()
    await browser.parts.sampler.round()
    assert "No relay answers." not in (await browser.get("/outbox")).text


@pytest.mark.parametrize(
    ("replay", "expected"),
    [
        ({"state": "RUNNING", "position": 0, "up_to": 8}, 0.0),
        ({"state": "RUNNING", "position": 2, "up_to": 8}, 0.25),
        ({"state": "CANCELLED", "position": 9, "up_to": 8}, 1.0),
        ({"state": "RUNNING", "position": 0, "up_to": 0}, 1.0),
        ({"state": "DONE", "position": 2, "up_to": 8}, 1.0),
    ],
)
def test_progress_is_a_share(replay: dict[str, object], expected: float) -> None:
    assert share(replay) == expected
