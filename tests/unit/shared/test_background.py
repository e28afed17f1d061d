"""Background loops outlive every failure of a round; an essential task that dies is noticed."""

import asyncio

import asyncpg
import pytest
import structlog
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from shared.postgres.errors import translated
from shared.process import tasks
from shared.process.tasks import PAUSE_MAX_SECONDS, LoopSupervisor, essential
from shared.refusals import Unavailable


def failed_rounds(cause: str) -> float:
    return REGISTRY.get_sample_value("background_failed_rounds_total", {"loop": "test", "cause": cause}) or 0.0


@pytest.fixture
def supervisor() -> LoopSupervisor:
    """Return a supervisor of the loop `test`."""
    return LoopSupervisor("test", "test failed")


def fail(supervisor: LoopSupervisor, error: BaseException) -> None:
    with supervisor:
        raise error


async def test_loop_survives_bugs_and_transient_failures_and_counts_each(supervisor: LoopSupervisor) -> None:
    transient, bugs = failed_rounds("transient"), failed_rounds("bug")
    for error in (Unavailable("away"), ValueError("bug"), MemoryError(), ExceptionGroup("several", [KeyError(1)])):
        fail(supervisor, error)
    assert (failed_rounds("transient"), failed_rounds("bug")) == (transient + 1, bugs + 3)
    assert supervisor.failures == 4


async def test_failure_is_logged_once_until_it_changes_or_is_over(supervisor: LoopSupervisor) -> None:
    with capture_logs() as logs:
        for number in range(5):
            fail(supervisor, Unavailable(f"away for the {number}th time"))
        for number in range(5):
            fail(supervisor, ValueError(number))
        fail(supervisor, Unavailable("away again"))
        with supervisor:
            pass
        with supervisor:
            pass
        fail(supervisor, Unavailable("away"))
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("test failed", "warning"),
        ("test failed", "error"),
        ("loop.recovered", "info"),
        ("test failed", "warning"),
    ]
    assert isinstance(logs[1]["exc_info"], ValueError), "a bug comes with its trace"
    assert logs[2]["failed_rounds"] == 11


async def test_two_different_database_errors_are_logged_separately(supervisor: LoopSupervisor) -> None:
    with capture_logs() as logs:
        for code in ("42501", "42501", "53100", "42501"):
            with supervisor, translated():
                raise asyncpg.PostgresError.new({"C": code, "M": f"the server's words on {code}"})
    assert ["42501" in logs[0]["detail"], "53100" in logs[1]["detail"], len(logs)] == [True, True, 2]


async def test_pause_of_a_failing_loop_grows_to_a_bound(supervisor: LoopSupervisor) -> None:
    assert supervisor.pause(0.5) == 0.5
    pauses = []
    for _ in range(100):
        fail(supervisor, Unavailable())
        pauses.append(supervisor.pause(0.5))
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert set(pauses[4:]) == {PAUSE_MAX_SECONDS}
    assert supervisor.pause(60.0) == 60.0
    with supervisor:
        pass
    assert supervisor.pause(0.5) == 0.5


async def test_cancellation_of_something_that_a_round_waits_for_is_a_failure_of_the_round(
    supervisor: LoopSupervisor,
) -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    with supervisor:
        await other
    assert supervisor.failures == 1


async def test_cancellation_of_the_loop_itself_ends_it(supervisor: LoopSupervisor) -> None:
    async def loop() -> None:
        while supervisor.failures == 0:
            with supervisor:
                await asyncio.Event().wait()

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert supervisor.failures == 0


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_end_of_the_process_ends_the_loop(supervisor: LoopSupervisor, end: type[BaseException]) -> None:
    with pytest.raises(end):
        fail(supervisor, end())


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect deaths; those of this test don't count in others."""
    monkeypatch.setattr(tasks, "essentials", tasks.Essentials())
    found: list[str] = []
    tasks.essentials.on_death = lambda: found.append("reported")
    return found


async def test_essential_task_that_raises_is_dead_and_its_death_is_reported_once(deaths: list[str]) -> None:
    async def die() -> None:
        raise ValueError

    with capture_logs() as logs:
        await asyncio.wait([essential("mortal", die())])
        await asyncio.sleep(0)
    assert (tasks.essentials.dead, deaths) == (["mortal"], ["reported"])
    assert [(line["event"], line["task"]) for line in logs] == [("task.died", "mortal")]


async def test_death_is_reported_although_the_log_fails(deaths: list[str]) -> None:
    async def die() -> None:
        raise ValueError

    def fail(*_: object) -> None:
        raise OSError

    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    structlog.configure(processors=[fail])  # type: ignore[list-item] # it returns nothing
    try:
        await asyncio.wait([essential("mortal", die())])
        await asyncio.sleep(0)
    finally:
        structlog.reset_defaults()
    assert (tasks.essentials.dead, deaths, [type(error) for error in errors]) == (["mortal"], ["reported"], [OSError])


async def test_essential_task_that_was_cancelled_by_what_it_waits_for_is_dead(deaths: list[str]) -> None:
    other = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await other

    task = essential("mortal", wait())
    await asyncio.sleep(0)
    other.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert (tasks.essentials.dead, deaths) == (["mortal"], ["reported"])


async def test_essential_task_that_returns_or_is_cancelled_has_not_died(deaths: list[str]) -> None:
    async def end() -> None:
        pass

    await essential("returns", end())
    async with tasks.background("waits", asyncio.Event().wait):  # type: ignore[arg-type] # its answer is nobody's
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (tasks.essentials.dead, deaths) == ([], [])
