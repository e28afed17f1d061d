"""The order service's side of the participant protocol: how it reads valid and invalid answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiohttp import web

from services.order.engine.participants import Participants
from services.order.saga import Command, Participant
from shared.participant.routes import UNKNOWN_KIND
from shared.refusals import Unavailable
from tests.infrastructure.waiting import free_port

Answer = Callable[[list[Any]], web.Response]


def command(number: int = 0) -> Command:
    return Command(Participant.PRODUCT, "restore_stock", str(uuid4()), 0, {"number": number})


def good(commands: list[Any]) -> web.Response:
    outcomes = [{"outcome": "applied", "result": {"number": one["number"]}} for one in commands]
    return web.json_response({"outcomes": outcomes})


@dataclass(slots=True)
class Server:
    """A participant with given answers, which real ones never give."""

    answer: Answer = good
    batches: list[list[Any]] = field(default_factory=list)
    held: asyncio.Event | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        commands = orjson.loads(await request.read())["commands"]
        self.batches.append(commands)
        self.arrived.set()
        if self.held is not None:
            await self.held.wait()
        return self.answer(commands)


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[Server, Participants]]:
    server, port = Server(), free_port()
    app = web.Application()
    app.router.add_post("/internal/v1/commands", server.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    url = f"http://127.0.0.1:{port}"
    try:
        async with Participants(dict.fromkeys(Participant, url)) as participants:
            yield server, participants
    finally:
        await runner.cleanup()


STRANGE: dict[str, Answer] = {
    "an error": lambda _: web.Response(status=500, text="oops"),
    "a refusal of the service": lambda _: web.Response(status=503),
    "a redirection": lambda _: web.Response(status=307),
    "no JSON": lambda _: web.Response(text="<html>"),
    "other JSON": lambda _: web.json_response([]),
    "no outcome": lambda _: web.json_response({"outcomes": []}),
    "too many outcomes": lambda _: web.json_response({"outcomes": [{"outcome": "applied", "result": {}}] * 2}),
    "an outcome of another kind": lambda _: web.json_response({"outcomes": [{"outcome": "perhaps"}]}),
    "an outcome that is unknown": lambda _: web.json_response({"outcomes": [{"outcome": "unknown"}]}),
    "an application without a result": lambda _: web.json_response({"outcomes": [{"outcome": "applied"}]}),
    "a rejection": lambda _: web.json_response({"type": "/problems/validation-failed"}, status=422),
}


@pytest.mark.parametrize("name", STRANGE)
async def test_answer_neither_applied_nor_refused_is_an_unknown_outcome(name: str) -> None:
    async with talking() as (server, participants):
        server.answer = STRANGE[name]
        with pytest.raises(Unavailable):
            await participants.send(command())
        server.answer = good
        assert (await participants.send(command())).applied


async def test_members_of_a_later_version_of_the_participant_are_ignored() -> None:
    async with talking() as (server, participants):
        server.answer = lambda _: web.json_response(
            {"outcomes": [{"outcome": "applied", "result": {"number": 1}, "more": 1}], "more": [1]}
        )
        outcome = await participants.send(command())
        assert (outcome.applied, outcome.body) == (True, {"number": 1})


async def test_command_that_an_older_participant_does_not_know_says_so_and_is_unknown() -> None:
    async with talking() as (server, participants):
        server.answer = lambda _: web.json_response({"outcomes": [UNKNOWN_KIND]})
        with pytest.raises(Unavailable, match="does not know commands of this kind"):
            await participants.send(command())


async def test_absent_participant_is_unreachable_and_its_outcomes_unknown() -> None:
    async with Participants(dict.fromkeys(Participant, f"http://127.0.0.1:{free_port()}")) as participants:
        with pytest.raises(Unavailable):
            await participants.send(command())
        assert participants.reachable()["product"] is False
        assert participants.reachable()["coupon"] is None  # it was not called


async def test_participant_that_was_not_called_for_long_is_not_said_to_be_reachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with talking() as (server, participants):
        server.answer = good
        await participants.send(command())
        assert participants.reachable()["product"] is True
        monkeypatch.setattr("services.order.engine.participants.REACHABLE_SECONDS", 0.0)
        assert participants.reachable()["product"] is None


async def test_commands_that_arrive_during_a_batch_go_in_the_next_one() -> None:
    async with talking() as (server, participants):
        server.held = asyncio.Event()
        sends = [asyncio.ensure_future(participants.send(command(number))) for number in range(10)]
        await asyncio.wait_for(server.arrived.wait(), 10)
        sends += [asyncio.ensure_future(participants.send(command(number))) for number in range(10, 30)]
        await asyncio.sleep(0)
        server.held.set()
        outcomes = await asyncio.gather(*sends)
        assert [outcome.body["number"] for outcome in outcomes] == list(range(30))
        assert len(server.batches) == 2
        assert sum(len(batch) for batch in server.batches) == 30


async def test_unreadable_command_does_not_delay_the_rest_of_its_batch() -> None:
    def fussy(commands: list[Any]) -> web.Response:
        if any(one["number"] == 3 for one in commands):
            return web.json_response({"type": "/problems/validation-failed"}, status=422)
        return good(commands)

    async with talking() as (server, participants):
        server.answer = fussy
        results = await asyncio.gather(
            *(participants.send(command(number)) for number in range(6)), return_exceptions=True
        )
    assert [type(result).__name__ == "Outcome" for result in results] == [True, True, True, False, True, True]
    assert isinstance(results[3], Unavailable)


async def test_refusal_is_passed_on_unchanged() -> None:
    problem = {"type": "/problems/out-of-stock", "status": 400, "detail": "no", "product_ids": ["cup"]}
    async with talking() as (server, participants):
        server.answer = lambda _: web.json_response({"outcomes": [{"outcome": "refused", "problem": problem}]})
        outcome = await participants.send(command())
    assert (outcome.applied, outcome.body) == (False, problem)
