"""The promises to clients about coupons."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client
from tests.integration import hostile
from tests.integration.ids import AWKWARD, UNADDRESSABLE, at

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/coupons"
VALID = {"user_id": "ann", "kind": "percent", "value": 10}


async def test_a_coupon_is_given_and_can_be_read(coupon: Client) -> None:
    wanted = {
        **VALID,
        "coupon_id": "c1",
        "max_discount": 500,
        "min_subtotal": 100,
        "expires_at": "2099-01-01T00:00:00Z",
    }
    given = await coupon.post(PATH, wanted)
    created_at = datetime.fromisoformat(given.pop("created_at"))
    assert abs(created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert given == {**wanted, "status": "AVAILABLE", "currency": "KRW"}
    assert (await coupon.get(f"{PATH}/c1")).items() >= given.items()


async def test_a_coupon_without_an_id_gets_one(coupon: Client) -> None:
    first, second = await coupon.post(PATH, VALID), await coupon.post(PATH, VALID)
    assert first["coupon_id"] != second["coupon_id"]


async def test_an_id_can_be_used_once(coupon: Client) -> None:
    coupon_id = uuid4().hex
    await coupon.post(PATH, {**VALID, "coupon_id": coupon_id})
    answer = await coupon.call("POST", PATH, {**VALID, "coupon_id": coupon_id})
    assert (answer.status, answer.problem) == (409, "coupon-exists")


async def test_an_unknown_coupon_is_not_found(coupon: Client) -> None:
    answer = await coupon.call("GET", f"{PATH}/nowhere")
    assert (answer.status, answer.problem) == (404, "coupon-not-found")


async def test_coupons_are_listed_by_user_and_status_page_by_page(coupon: Client) -> None:
    user, other = uuid4().hex, uuid4().hex
    mine = sorted([(await coupon.post(PATH, {**VALID, "user_id": user}))["coupon_id"] for _ in range(5)])
    await coupon.post(PATH, {**VALID, "user_id": other})
    order = {"order_id": str(uuid4()), "user_id": user, "coupon_id": mine[2], "subtotal_amount": 100}
    await coupon.command({"type": "reserve_coupon", **order})

    async def listed(**filters: Any) -> list[str]:
        return [item["coupon_id"] for item in await coupon.all_items(PATH, limit=2, **filters)]

    assert await listed(user_id=user) == mine
    assert await listed(user_id=user, status="RESERVED") == [mine[2]]
    assert await listed(user_id=user, status="AVAILABLE") == mine[:2] + mine[3:]
    assert mine[2] in await listed(status="RESERVED")
    assert set(mine) < set(await listed())


async def test_a_limit_above_the_maximum_is_lowered_to_it(coupon: Client) -> None:
    user = uuid4().hex
    for _ in range(101):
        await coupon.post(PATH, {**VALID, "user_id": user})
    page = await coupon.get(PATH, user_id=user, limit=1000)
    assert len(page["items"]) == 100
    assert page["next_cursor"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": 101},
        {"value": 0},
        {"kind": "gift"},
        {"max_discount": 0},
        {"min_subtotal": -1},
        {"expires_at": "tomorrow"},
        {"expires_at": "2030-01-01T00:00:00"},  # without a zone
        {"expires_at": "0001-01-01T00:00:00+23:59"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"expires_at": 1893456000},
        {"expires_at": "1893456000"},
        {"expires_at": "20300101"},
        {"expires_at": "2030-01-01"},
        {"expires_at": "2030-W01-1T00:00:00Z"},
        {"expires_at": "2030-01-01 00:00:00Z"},
        {"expires_at": "2016-12-31T23:59:60Z"},
        {"expires_at": "2030-01-01T00:00:00+24:00"},
        {"coupon_id": ""},
        {"coupon_id": "x" * 129},
        {"status": "REDEEMED"},
    ],
    ids=str,
)
async def test_a_coupon_that_makes_no_sense_is_refused_and_its_field_named(
    coupon: Client, wrong: dict[str, Any]
) -> None:
    answer = await coupon.call("POST", PATH, {**VALID, **wrong})
    assert (answer.status, answer.problem) == (422, "validation-failed")
    (error,) = answer.body["errors"]
    assert error["message"]
    assert error["pointer"] in ("", *(f"/{name}" for name in wrong))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2030-01-01t09:00:00.123456789+09:00", "2030-01-01T00:00:00.123456Z"),
        ("0002-01-01T00:00:00+23:59", "0001-12-31T00:01:00Z"),
        ("9998-12-31T23:59:59.999999-23:59", "9999-01-01T23:58:59.999999Z"),
    ],
)
async def test_coupon_expires_at_its_expires_at(coupon: Client, given: str, kept: str) -> None:
    made = await coupon.post(PATH, {**VALID, "expires_at": given})
    assert (await coupon.get(f"{PATH}/{made['coupon_id']}"))["expires_at"] == made["expires_at"] == kept


@pytest.mark.parametrize("status", ["", "available", "GONE"])
async def test_an_unknown_status_is_refused(coupon: Client, status: str) -> None:
    answer = await coupon.call("GET", PATH, params={"status": status})
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert answer.body["errors"][0]["pointer"] == "/query/status"


async def test_coupon_is_found_by_any_valid_id(coupon: Client) -> None:
    for text in AWKWARD:
        made = await coupon.post(PATH, {**VALID, "coupon_id": text, "user_id": text})
        found = await coupon.call("GET", at(PATH, text))
        assert (found.status, found.body) == (200, made)
        assert await coupon.all_items(PATH, user_id=text) == [made]
    listed = [item["coupon_id"] for item in await coupon.all_items(PATH, limit=1)]
    assert set(AWKWARD) <= set(listed)
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("text", UNADDRESSABLE)
async def test_id_that_a_proxy_would_change_is_refused_but_found_if_it_exists(
    coupon: Client, database: Database, text: str
) -> None:
    answer = await coupon.call("POST", PATH, {**VALID, "coupon_id": text})
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert [error["pointer"] for error in answer.body["errors"]] == ["/coupon_id"]
    db = await asyncpg.connect(database.url)
    await db.execute("INSERT INTO coupons.coupons (coupon_id, user_id, kind, value) VALUES ($1, $1, 'fixed', 5)", text)
    await db.close()
    found = await coupon.call("GET", at(PATH, text))
    assert (found.status, found.body["coupon_id"], found.body["user_id"]) == (200, text, text)
    further = await coupon.post(PATH, {**VALID, "user_id": text})
    assert {item["coupon_id"] for item in await coupon.all_items(PATH, user_id=text)} == {text, further["coupon_id"]}


@pytest.mark.parametrize(
    "attack",
    [
        *hostile.bodies(PATH, VALID, "value", "user_id"),
        *hostile.lists(PATH),
        *hostile.limits("/internal/v1/holds"),
        *hostile.paths(f"{PATH}/", "coupon-not-found"),
    ],
    ids=str,
)
async def test_hostile_input_is_the_client_s_fault(coupon: Client, attack: hostile.Attack) -> None:
    await hostile.withstand(coupon, attack)
