"""A group's producer is opened once for all shards that ask for it, and its failure fails all of them."""

import asyncio
import gc
from contextlib import nullcontext
from typing import Any

import pytest

from services.relay import store
from services.relay.domain.events import CHUNK_BYTES, EventsRefused
from services.relay.domain.shards import Lease, LeaseLost
from services.relay.kafka.client import BrokerFailed
from services.relay.publishing import group_commit
from services.relay.publishing.group_commit import CommitRequest, GroupCommit, GroupRefused
from services.relay.settings import RelaySettings
from shared.process.tasks import run_to_completion
from shared.refusals import Unavailable


class Hanging:
    """A fake producer: the test decides when and how its opening and its publications end."""

    made: "list[Hanging]"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.may_be_dropped = asyncio.Event()
        self.may_be_dropped.set()
        self.dropped = False
        self.fails_with: Exception | None = None
        self.made.append(self)

    async def open(self) -> None:
        await self.outcome

    async def publish(self, *_: Any) -> None:
        if self.fails_with is not None:
            raise self.fails_with

    async def drop(self) -> None:
        await run_to_completion(self._end())

    async def _end(self) -> None:
        await self.may_be_dropped.wait()
        self.dropped = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Hanging]:
    Hanging.made = []
    monkeypatch.setattr(group_commit, "EventProducer", Hanging)
    return Hanging.made


@pytest.fixture
def group() -> GroupCommit:
    settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
    return GroupCommit(settings, lambda: 4)


async def fencing(group: GroupCommit, count: int) -> "list[asyncio.Task[None]]":
    tasks = [asyncio.create_task(group.fence_failed()) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_all_shards_wait_for_one_attempt_and_fail_with_it(group: GroupCommit, made: list[Hanging]) -> None:
    tasks = await fencing(group, 4)
    [attempt] = made
    attempt.outcome.set_exception(BrokerFailed("it hangs"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [BrokerFailed] * 4
    assert attempt.dropped
    [again] = await fencing(group, 1)
    made[1].outcome.set_result(None)
    await again
    await group.fence_failed()
    assert len(made) == 2, "what is open is not opened again"
    await group.close()
    assert made[1].dropped


async def test_an_attempt_outlives_a_shard_that_is_stopped(group: GroupCommit, made: list[Hanging]) -> None:
    stopped, waiting = await fencing(group, 2)
    stopped.cancel()
    await asyncio.sleep(0)
    made[0].outcome.set_result(None)
    await waiting
    assert len(made) == 1
    await group.close()


async def test_an_attempt_under_way_ends_with_the_group(group: GroupCommit, made: list[Hanging]) -> None:
    [task] = await fencing(group, 1)
    await group.close()
    assert made[0].dropped
    await asyncio.wait([task])
    assert task.cancelled()


async def test_attempt_that_is_cancelled_itself_is_forgotten(group: GroupCommit, made: list[Hanging]) -> None:
    [task] = await fencing(group, 1)
    attempt = group._opening
    assert attempt is not None
    attempt.cancel()
    await asyncio.wait([task, attempt])
    group._tried_to_open(attempt)  # as the event loop has done: it would only log what this raises
    assert made[0].dropped
    assert await opened(group, made) is not made[0]
    await group.close()


async def test_the_group_ends_only_once_a_failed_attempt_is_dropped(group: GroupCommit, made: list[Hanging]) -> None:
    [task] = await fencing(group, 1)
    made[0].may_be_dropped.clear()
    made[0].outcome.set_exception(BrokerFailed("it hangs"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(group.close())
    done, _ = await asyncio.wait([closing], timeout=0.05)
    assert not done
    made[0].may_be_dropped.set()
    await closing
    assert made[0].dropped
    await asyncio.wait([task])


async def opened(group: GroupCommit, made: list[Hanging]) -> Hanging:
    """Open the group's next producer."""
    [task] = await fencing(group, 1)
    made[-1].outcome.set_result(None)
    await task
    return made[-1]


def refusal(*, together: bool) -> EventsRefused:
    """The broker finds a record batch too large, of several events or of one."""
    event: Any = object()
    return EventsRefused("too large", [[event] * (2 if together else 1)], too_large=True)


@pytest.mark.parametrize(
    ("failure", "raised"), [(BrokerFailed("fenced"), BrokerFailed), (refusal(together=False), GroupRefused)]
)
async def test_producer_that_failed_to_publish_is_dropped_and_another_opened(
    group: GroupCommit, made: list[Hanging], failure: Exception, raised: type[Exception]
) -> None:
    """The failed producer's result is unknown: the next producer ends it, and the failed one must not be used again."""
    first: Any = await opened(group, made)
    first.fails_with = failure
    with pytest.raises(raised):
        await group._publish(first, [])
    assert first.dropped
    assert await opened(group, made) is not first
    await group.close()


async def test_late_failure_of_a_producer_does_not_drop_its_successor(group: GroupCommit, made: list[Hanging]) -> None:
    first: Any = await opened(group, made)
    await group._drop(first)
    second = await opened(group, made)
    await group._drop(first)
    await asyncio.wait_for(group.fence_failed(), 1)
    assert made[-1] is second
    await group.close()


@pytest.mark.parametrize("together", [True, False])
async def test_record_batches_get_smaller_only_if_they_were_too_large_as_a_whole(
    group: GroupCommit, made: list[Hanging], *, together: bool
) -> None:
    publisher: Any = await opened(group, made)
    publisher.fails_with = refusal(together=together)
    with pytest.raises(GroupRefused):
        await group._publish(publisher, [])
    assert (group._chunk_bytes < CHUNK_BYTES) is together


async def test_shard_that_gave_up_waiting_is_answered_without_harm() -> None:
    for end in ("answer", "fail"):
        request = CommitRequest(Lease(0, 1, 0, 0, True, None), 0)
        request.outcome.cancel()
        request.answer(1) if end == "answer" else request.fail(BrokerFailed("late"))
        assert request.outcome.cancelled()


async def test_failed_attempt_without_a_waiter_is_not_reported_by_asyncio(
    group: GroupCommit, made: list[Hanging]
) -> None:
    gc.collect()  # so that other tests' leftovers are not reported here
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    [task] = await fencing(group, 1)
    task.cancel()
    await asyncio.wait([task])
    made[0].outcome.set_exception(BrokerFailed("it hangs"))
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_group_of_a_replica_started_again_has_another_transactional_id() -> None:
    settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1", replica="named")
    ids = {GroupCommit(settings, lambda: 4).transactional_id for _ in range(2)}
    assert len(ids) == 2
    assert all("named" in id_ for id_ in ids)


class Session:
    """Stands in for the group's connection to Postgres."""

    def is_closed(self) -> bool:
        return False

    async def close(self, **_: Any) -> None: ...


@pytest.mark.parametrize(
    ("error", "kept"), [(LeaseLost("epoch 2"), True), (OSError("gone"), False)], ids=["one shard", "connection"]
)
async def test_failed_claim_makes_shards_go_alone_or_ends_the_connection(
    group: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, *, kept: bool
) -> None:
    async def cycle_together(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(store, "cycle_together", cycle_together)
    group._connection = Session()
    with nullcontext() if kept else pytest.raises(Unavailable):
        assert await group._claim([CommitRequest(Lease(0, 1, 0, 0, True, None), 0)]) == {}
    assert (group._connection is not None) == kept


async def test_producer_is_open_before_events_are_claimed(group: Any) -> None:
    """A shard that was fenced before its claim must not use a producer that was opened after it."""

    async def opened() -> None:
        steps.append("opened")

    async def claim(_: Any) -> dict[int, Any]:
        steps.append("claimed")
        return {}

    steps: list[str] = []
    group._opened, group._claim = opened, claim
    assert await group.round(Lease(0, 1, 0, 0, True, None), 0) is None
    assert steps == ["opened", "claimed"]


async def test_shard_that_asks_in_the_next_step_of_the_event_loop_takes_part_in_the_round(group: Any) -> None:
    async def round_(requests: list[CommitRequest]) -> float:
        rounds.append([request.lease.shard for request in requests])
        for request in requests:
            request.answer(0)
        return 0.0

    rounds: list[list[int]] = []
    group._round = round_
    first = asyncio.create_task(group.round(Lease(0, 1, 0, 0, True, None), 0))
    await asyncio.sleep(0)
    second = asyncio.create_task(group.round(Lease(1, 1, 0, 0, True, None), 0))
    await asyncio.gather(first, second)
    assert rounds == [[0, 1]]


@pytest.fixture
def outcomes(group: Any) -> "list[asyncio.Future[None]]":
    """The outcomes of the group's attempts to open its producer, which the test sets; it then claims nothing."""
    outcomes: list[asyncio.Future[None]] = []

    async def opened() -> None:
        outcomes.append(asyncio.get_running_loop().create_future())
        await outcomes[-1]

    async def claim(_: Any) -> dict[int, Any]:
        return {}

    group._opened, group._claim = opened, claim
    return outcomes


async def loop_steps(count: int = 10) -> None:
    """Let the event loop take some steps."""
    for _ in range(count):
        await asyncio.sleep(0)


async def asking(group: Any, outcomes: "list[asyncio.Future[None]]") -> "list[asyncio.Task[int | None]]":
    """Return a shard's request whose round has begun, and another shard's that waits for the next round."""
    first = asyncio.create_task(group.round(Lease(0, 1, 0, 0, True, None), 0))
    await loop_steps()
    assert len(outcomes) == 1
    second = asyncio.create_task(group.round(Lease(1, 1, 0, 0, True, None), 0))
    await asyncio.sleep(0)
    return [first, second]


async def test_failed_round_is_followed_by_the_one_that_other_shards_wait_for(
    group: Any, outcomes: "list[asyncio.Future[None]]"
) -> None:
    first, second = await asking(group, outcomes)
    outcomes[0].set_exception(BrokerFailed("fenced"))
    await loop_steps()
    assert len(outcomes) == 2
    outcomes[1].set_result(None)
    with pytest.raises(BrokerFailed, match="fenced"):
        await first
    assert await second is None


async def test_group_that_is_closed_begins_no_further_round(group: Any, outcomes: "list[asyncio.Future[None]]") -> None:
    first, second = await asking(group, outcomes)
    async with asyncio.timeout(1):
        await group.close()
    with pytest.raises(BrokerFailed, match="cut off"):
        await first
    assert len(outcomes) == 1
    second.cancel()
    await asyncio.wait([second])
