"""Work that takes long goes on one at a time, and its end is kept."""

import asyncio
from collections.abc import Mapping
from typing import Any

from deploy.console.jobs import Job, Jobs
from tests.infrastructure.waiting import eventually


async def until_ended(jobs: Jobs) -> Job:
    async def is_over() -> bool:
        return jobs.last is not None and not jobs.last.is_running

    await eventually(is_over, 5, "the end of the job")
    assert jobs.last is not None
    return jobs.last


async def test_job_ends_with_its_result() -> None:
    jobs = Jobs()

    async def work() -> Mapping[str, Any]:
        return {"clean": True}

    assert jobs.begin(Job("audit", "sue"), work())
    job = await until_ended(jobs)
    assert (job.result, job.error, job.by) == ({"clean": True}, "", "sue")
    assert job.seconds >= 0
    assert jobs.begin(Job("audit", "bob"), work()), "after its end, another one may begin"
    assert (await until_ended(jobs)).by == "bob"


async def test_second_job_waits_for_the_end_of_the_first() -> None:
    jobs, release = Jobs(), asyncio.Event()

    async def work() -> Mapping[str, Any]:
        await release.wait()
        return {}

    assert jobs.begin(Job("audit", "sue"), work())
    assert not jobs.begin(Job("repair", "bob"), work())
    assert jobs.last is not None
    assert (jobs.last.by, jobs.last.is_running) == ("sue", True)
    release.set()
    await until_ended(jobs)


async def test_failed_job_says_why() -> None:
    jobs = Jobs(lambda error: f"it was: {error}")

    async def work() -> Mapping[str, Any]:
        raise ConnectionError("no answer")

    jobs.begin(Job("audit", "sue"), work())
    job = await until_ended(jobs)
    assert (job.result, job.error) == (None, "it was: no answer")


async def test_running_job_ends_with_the_process() -> None:
    jobs = Jobs()

    async def work() -> Mapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    jobs.begin(Job("audit", "sue"), work())
    await asyncio.sleep(0)
    await jobs.close()
    assert jobs.last is not None
    assert not jobs.last.is_running
