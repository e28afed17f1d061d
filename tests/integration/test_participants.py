"""What the product, coupon and balance services share: the protocol's edge cases and common answers."""

from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from shared.contracts.commands import COMMANDS_BODY_MAX_BYTES, COMMANDS_MAX, COMMANDS_PATH
from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client, migrate_service, serving

NOBODY = str(UUID(int=7))  # in the names of tests, which must be the same in every process
UNDO = {"product": "restore_stock", "coupon": "release_coupon", "balance": "refund"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(UNDO))
async def participant(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[tuple[Client, str]]:
    """Yield a client of each participant, with the name of its undo."""
    async with serving(request.param, migrate_service(request.param, database)) as client:
        yield client, UNDO[request.param]


async def test_an_order_never_seen_is_open_and_without_outcomes(participant: tuple[Client, str]) -> None:
    client, _ = participant
    order = str(uuid4())
    assert await client.get(f"/internal/v1/outcomes/{order}") == {"order_id": order, "closed": False, "outcomes": []}


async def test_malformed_order_id_is_not_found(participant: tuple[Client, str]) -> None:
    answer = await participant[0].call("GET", "/internal/v1/outcomes/nonsense")
    assert (answer.status, answer.problem) == (404, "not-found")


async def test_undo_without_a_do_closes_the_order(participant: tuple[Client, str]) -> None:
    client, undo = participant
    order = str(uuid4())
    assert await client.command({"type": undo, "order_id": order}) == [{"outcome": "applied", "result": {}}]
    stored = await client.get(f"/internal/v1/outcomes/{order}")
    assert (stored["closed"], [item["type"] for item in stored["outcomes"]]) == (True, [undo])


async def test_the_largest_batch_gets_an_outcome_a_command(participant: tuple[Client, str]) -> None:
    client, undo = participant
    commands = [{"type": undo, "order_id": str(uuid4())} for _ in range(COMMANDS_MAX)]
    assert len(await client.command(*commands)) == COMMANDS_MAX


@pytest.mark.parametrize(
    "commands",
    [
        [],
        [{}],
        [{"order_id": NOBODY}],
        "undo",
        None,
        {},
    ],
    ids=str,
)
async def test_a_batch_that_breaks_the_contract_is_refused_as_a_whole(
    participant: tuple[Client, str], commands: Any
) -> None:
    answer = await participant[0].call("POST", COMMANDS_PATH, {"commands": commands})
    assert (answer.status, answer.problem) == (422, "validation-failed")


@pytest.mark.parametrize(
    "wrong",
    [{"order_id": "nonsense"}, {"order_id": None}, {"attempt": 1}, {"attempt": -1}, {"type": None}],
    ids=str,
)
async def test_one_wrong_command_refuses_the_batch_before_any_is_run(
    participant: tuple[Client, str], wrong: dict[str, Any]
) -> None:
    client, undo = participant
    good = {"type": undo, "order_id": str(uuid4())}
    answer = await client.call("POST", COMMANDS_PATH, {"commands": [good, {**good, **wrong}]})
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert not (await client.get(f"/internal/v1/outcomes/{good['order_id']}"))["closed"]


async def test_a_command_of_a_later_version_does_not_make_the_others_fail(participant: tuple[Client, str]) -> None:
    client, undo = participant
    known = {"type": undo, "order_id": str(uuid4())}
    later = {"type": "wrap_as_a_gift", "order_id": str(uuid4()), "paper": "red"}
    first, second, third = await client.command(later, known, later)
    assert second == {"outcome": "applied", "result": {}}
    assert first == third
    assert (first["outcome"], "does not know" in first["problem"]["detail"]) == ("unknown", True)
    assert [answer["outcome"] for answer in await client.command(later)] == ["unknown"]


async def test_members_of_a_later_version_change_no_outcome(participant: tuple[Client, str]) -> None:
    client, undo = participant
    command = {"type": undo, "order_id": str(uuid4()), "wrapped": True}
    answer = await client.post(COMMANDS_PATH, {"commands": [command], "sender": "order 9.9"})
    assert answer == {"outcomes": [{"outcome": "applied", "result": {}}]}
    assert await client.get("/internal/v1/holds", order_id=command["order_id"], compact="yes") == {"items": []}


async def test_more_commands_than_a_call_may_have_are_refused(participant: tuple[Client, str]) -> None:
    client, undo = participant
    commands = [{"type": undo, "order_id": str(uuid4())}] * (COMMANDS_MAX + 1)
    assert (await client.call("POST", COMMANDS_PATH, {"commands": commands})).problem == "validation-failed"


async def test_a_batch_larger_than_any_could_be_is_cut_off(participant: tuple[Client, str]) -> None:
    headers = {"Content-Type": "application/json"}
    body = BytesIO(b" " * (COMMANDS_BODY_MAX_BYTES + 1))
    answer = await participant[0].call("POST", COMMANDS_PATH, data=body, headers=headers)
    assert (answer.status, answer.problem) == (413, "body-too-large")


async def test_participant_is_alive_and_ready_and_serves_its_document(participant: tuple[Client, str]) -> None:
    client, _ = participant
    assert (await client.get("/livez")) == {"status": "alive"}
    checks = {"database": "ok", "clock": "ok"}
    assert (await client.get("/readyz")) == {"status": "ready", "auth_mode": "open", "checks": checks}
    spec = await client.get("/openapi.json")
    assert spec["openapi"].startswith("3.1")
    assert {COMMANDS_PATH, "/internal/v1/holds", "/internal/v1/outcomes/{order_id}"} < set(spec["paths"])


@pytest.mark.parametrize("name", list(UNDO))
async def test_without_its_database_a_service_lives_is_not_ready_and_answers_503(database: Database, name: str) -> None:
    async with serving(name, database.as_role(f"{name}_service") + "_gone") as client:
        assert (await client.get("/livez")) == {"status": "alive"}
        readiness = await client.call("GET", "/readyz")
        assert (readiness.status, readiness.body["status"]) == (503, "not ready")
        assert readiness.body["checks"]["database"] != "ok"
        command = {"type": UNDO[name], "order_id": str(uuid4())}
        for method, path, body in (
            ("POST", COMMANDS_PATH, {"commands": [command]}),
            ("GET", "/internal/v1/holds", None),
        ):
            answer = await client.call(method, path, body)
            assert (answer.status, answer.problem) == (503, "unavailable")


@pytest.mark.parametrize("name", list(UNDO))
async def test_an_unmigrated_service_is_not_ready(create_database: Any, name: str) -> None:
    async with serving(name, create_database().as_role(f"{name}_service")) as client:
        assert (await client.call("GET", "/readyz")).status == 503
