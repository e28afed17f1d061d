"""The operators' command line and their API, which needs a separate listener."""

import asyncio
import os
import subprocess
from datetime import UTC, datetime

from shared.ids import uuid7
from tests.infrastructure import forks
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import Client
from tests.infrastructure.waiting import eventually
from tests.integration.relay.operators import an_order, command, parked_order, removed, statuses_of

WHO = ("--by", "sue", "--reason", "a test")
BODY = {"actor": "sue", "reason": "a test"}


async def test_every_command_does_what_its_dry_run_says_and_is_recorded(pipeline: Pipeline) -> None:
    assert (await command(pipeline, "list")).out == "none"
    events = await parked_order(pipeline, 3, payload=an_order(lines=3))
    (first, *_), order_id = (await command(pipeline, "list", "--json")).json, str(events[0].order_id)
    assert (first["order_id"], first["first"], first["sequence"]) == (order_id, True, 1)
    table = (await command(pipeline, "list")).out.splitlines()
    assert table[0].split()[:3] == ["event_id", "order_id", "sequence"]
    assert len(table) == 4
    for arguments in (("redact", first["event_id"]), ("skip", first["event_id"]), ("retry", order_id)):
        if arguments[0] == "retry":
            await parked_again(pipeline)
        would = await command(pipeline, *arguments, *WHO, "--dry-run", "--json")
        did = await command(pipeline, *arguments, *WHO, "--json")
        assert (would.status, did.status) == (0, 0)
        assert [{"did": one.pop("would"), **one} for one in would.json] == did.json
    assert await statuses_of(pipeline, events[0].order_id) == ["SKIPPED", "PENDING", "PENDING"]
    acts = (await command(pipeline, "acts", "--json")).json
    assert [(one["act"], one["actor"], one["reason"]) for one in acts] == [
        ("retry", "sue", "a test"),
        ("skip", "sue", "a test"),
        ("redact", "sue", "a test"),
    ]
    assert acts[1]["detail"]["parked_reason"] == "MessageSizeTooLargeError"


async def parked_again(pipeline: Pipeline) -> None:
    await pipeline.connection.execute(
        "UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x' WHERE status = 'PENDING'"
    )


async def test_retry_all_retries_every_parked_event(pipeline: Pipeline) -> None:
    await parked_order(pipeline, 2)
    await parked_order(pipeline, 1, shard=3)
    assert len((await command(pipeline, "retry", "--all", *WHO, "--json")).json) == 3
    assert await pipeline.statuses() == {"PENDING": 3}


async def test_refused_command_prints_a_line_and_exits_1(pipeline: Pipeline) -> None:
    events = await parked_order(pipeline, 2)
    for name, id_, refusal in (
        ("retry", uuid7(), "EventNotParked"),
        ("skip", events[1].event_id, "EventNotFirst"),
        ("skip", uuid7(), "EventNotParked"),
    ):
        for dry_run in ([], ["--dry-run"]):
            refused = await command(pipeline, name, str(id_), *WHO, *dry_run)
            assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 0)
            assert refused.err.startswith(f"{refusal}: ")


async def test_command_line_needs_the_database_only_and_exits_2_on_wrong_usage(
    pipeline: Pipeline, reaper: Reaper
) -> None:
    environment = {"PATH": os.environ["PATH"], "RELAY_DATABASE_URL": pipeline.url}
    environment |= {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return forks.run("services.relay.admin", *arguments, environment=environment | more, reaper=reaper)

    listed = await asyncio.to_thread(run, "list", "--json")
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "[]\n", "")
    assert (await asyncio.to_thread(run, "skip", str(uuid7()))).returncode == 2, "no reason"
    nowhere = {"RELAY_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere"}
    away = await asyncio.to_thread(lambda: run("list", **nowhere))
    assert (away.returncode, away.stderr.count("\n"), away.stderr.split(":")[0]) == (1, 1, "Unavailable")


async def test_api_has_the_same_effects_as_the_command_line(pipeline: Pipeline, served: tuple[Client, Client]) -> None:
    _, admin = served
    events = await parked_order(pipeline, 2, payload=an_order(lines=3))
    first, second = (await admin.get("/admin/v1/parked"))["items"]
    assert [first["first"], second["first"]] == [True, False]
    path = f"/admin/v1/parked/{first['event_id']}"
    would = await admin.post(f"{path}/redact", {**BODY, "dry_run": True})
    done = await admin.post(f"{path}/redact", BODY)
    assert (would["dry_run"], done["dry_run"], would["events"]) == (True, False, done["events"])
    assert (await admin.call("POST", f"{path}/redact", BODY)).problem == "nothing-to-redact"
    behind = await admin.call("POST", f"/admin/v1/parked/{second['event_id']}/skip", BODY)
    assert (behind.status, behind.problem) == (409, "event-not-first")
    await admin.post(f"{path}/skip", BODY)
    await pipeline.until_sent(1)
    gone = await admin.call("POST", f"{path}/retry", BODY)
    assert (gone.status, gone.problem) == (404, "event-not-parked")
    assert (await admin.call("POST", "/admin/v1/parked/nonsense/retry", BODY)).problem == "event-not-parked"
    assert (await admin.call("POST", f"{path}/skip", {"actor": "sue"})).problem == "validation-failed"
    more = await parked_order(pipeline, 1)
    assert len((await admin.post(f"/admin/v1/parked/{more[0].order_id}/retry", BODY))["events"]) == 1
    await pipeline.until_sent(2)
    await parked_order(pipeline, 1)
    assert len((await admin.post("/admin/v1/parked/retry", BODY))["events"]) == 1
    acts = (await admin.get("/admin/v1/acts"))["items"]
    assert [one["act"] for one in acts] == ["retry", "retry", "skip", "redact"]
    assert await statuses_of(pipeline, events[0].order_id) == ["SKIPPED", "SENT"]


async def test_public_listener_serves_no_admin_route(served: tuple[Client, Client]) -> None:
    public, _ = served
    for method, path in (("GET", "/admin/v1/parked"), ("POST", "/admin/v1/parked/retry"), ("GET", "/admin/v1/acts")):
        assert (await public.call(method, path, None if method == "GET" else BODY)).problem == "not-found"
    assert not [path for path in (await public.get("/openapi.json"))["paths"] if "admin" in path]


async def test_api_starts_and_shows_replays(pipeline: Pipeline, served: tuple[Client, Client]) -> None:
    _, admin = served
    every, some = "/admin/v1/replays", {"from": "2020-01-01T00:00:00Z", "type": "order.paid.v1"}
    topic = f"{pipeline.topic}-again"
    asked = await admin.post(every, {**BODY, **some, "topic": topic})
    one = f"{every}/{asked['replay_id']}"

    async def done() -> bool:
        return bool((await admin.get(one))["state"] == "DONE")

    await eventually(done, 15, "the end of the replay")
    assert [each["topic"] for each in (await admin.get(every))["items"]] == [topic]
    for path, body, status, problem in (
        (every, {**BODY, **some, "topic": pipeline.topic}, 400, "replay-topic-not-allowed"),
        (every, {**BODY, "topic": topic}, 400, "replay-of-nothing"),
        (every, {**BODY, **some, "topic": "a/b"}, 422, "validation-failed"),
        (f"{one}/cancel", BODY, 409, "replay-not-running"),
        (f"{one}/resume", BODY, 409, "replay-not-stopped"),
        (f"{every}/{uuid7()}/cancel", BODY, 404, "replay-not-found"),
        (f"{every}/nonsense/resume", BODY, 404, "replay-not-found"),
    ):
        refused = await admin.call("POST", path, body)
        assert (refused.status, refused.problem) == (status, problem), path
    assert (await admin.call("GET", f"{every}/{uuid7()}")).problem == "replay-not-found"
    async with removed(pipeline, datetime(2021, 1, 1, tzinfo=UTC)):
        gone = await admin.call("POST", every, {**BODY, **some, "topic": topic})
        assert (gone.status, gone.problem) == (410, "events-removed")
