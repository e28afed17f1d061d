"""No body, query or path of an order call gets a 5xx: each is refused with a problem that names the error."""

import json
from typing import Any

import pytest
from yarl import URL

from shared.http.wire import BODY_MAX_BYTES
from tests.infrastructure.shopping import a_product, a_user, an_order
from tests.infrastructure.stack import Shop
from tests.integration import hostile
from tests.integration.hostile import JSON, Attack

VALID: dict[str, Any] = {"user_id": "ann", "lines": [{"product_id": "cup", "quantity": 1}], "payment": "now"}
NOBODY = "/v1/orders/00000000-0000-7000-8000-000000000000"


def line(**fields: Any) -> dict[str, Any]:
    return {**VALID, "lines": [{**VALID["lines"][0], **fields}]}


INVALID: dict[str, Any] = {
    "no lines": {**VALID, "lines": []},
    "lines missing": {"user_id": "ann"},
    "lines are an object": {**VALID, "lines": {}},
    "a line is a text": {**VALID, "lines": ["cup"]},
    "51 lines": {**VALID, "lines": [{"product_id": f"p{n}", "quantity": 1} for n in range(51)]},
    "a product twice": {**VALID, "lines": VALID["lines"] * 2},
    "an unknown field in a line": line(price=0),
    "a quantity missing": {**VALID, "lines": [{"product_id": "cup"}]},
    "a product missing": {**VALID, "lines": [{"quantity": 1}]},
    "quantity 0": line(quantity=0),
    "quantity -1": line(quantity=-1),
    "quantity 1001": line(quantity=1001),
    "quantity as text": line(quantity="1"),
    "quantity as float": line(quantity=1.0),
    "quantity as bool": line(quantity=True),
    "quantity null": line(quantity=None),
    "quantity out of int64": line(quantity=2**63),
    "quantity of 400 digits": line(quantity=10**400),
    "a product id of 129 characters": line(product_id="x" * 129),
    "a product id with NUL": line(product_id="a\0b"),
    "a product id that is a number": line(product_id=7),
    "an empty product id": line(product_id=""),
    "an empty coupon id": {**VALID, "coupon_id": ""},
    "a coupon id that is a list": {**VALID, "coupon_id": ["c"]},
    "payment sometime": {**VALID, "payment": "sometime"},
    "payment null": {**VALID, "payment": None},
    "payment true": {**VALID, "payment": True},
    "an unknown field": {**VALID, "total_amount": 0},
    "a user id with a newline": {**VALID, "user_id": "a\nb"},
    "a thousand unknown fields": {**VALID, **{f"f{n}": n for n in range(1000)}},
}

MALFORMED: dict[str, bytes] = {
    "NaN": b'{"user_id": NaN}',
    "Infinity": b'{"user_id": -Infinity}',
    "1e400": b'{"user_id": "ann", "lines": [{"product_id": "cup", "quantity": 1e400}]}',
    "a leading zero": b'{"user_id": 01}',
    "single quotes": b"{'user_id': 'ann'}",
    "a comment": b'{"user_id": "ann" /* me */}',
    "a trailing comma": b'{"user_id": "ann",}',
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(VALID).encode(),
    "UTF-16": json.dumps(VALID).encode("utf-16"),
    "an overlong encoding": b'{"user_id": "\xc0\x80"}',
    "a bare newline in a text": b'{"user_id": "a\nb"}',
    "an open string": b'{"user_id": "ann',
    "only white space": b" \n\t ",
    "deep objects": b'{"a":' * 12_000 + b"1" + b"}" * 10,
    "deep nesting in a field": b'{"user_id":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "a lone surrogate in a text": b'{"user_id": "\\udfff"}',
}


@pytest.mark.parametrize("name", INVALID)
async def test_a_body_that_breaks_the_schema_is_invalid(shop: Shop, name: str) -> None:
    answer = await shop.order.call("POST", "/v1/orders", INVALID[name])
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert all(set(error) == {"pointer", "message"} for error in answer.body["errors"])
    assert 1 <= len(answer.body["errors"]) <= 20


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_body_that_is_not_json_is_malformed(shop: Shop, name: str) -> None:
    answer = await shop.order.call("POST", "/v1/orders", data=MALFORMED[name], headers=JSON)
    # A text that is JSON in some dialects may be refused by the schema instead.
    assert (answer.status, answer.problem) in ((400, "malformed-body"), (422, "validation-failed"))


async def test_errors_point_at_the_wrong_fields(shop: Shop) -> None:
    body = {**line(quantity="1"), "we/ird~field": 1}
    answer = await shop.order.call("POST", "/v1/orders", body)
    assert {error["pointer"] for error in answer.body["errors"]} == {"/lines/0/quantity", "/we~1ird~0field"}


@pytest.mark.parametrize(
    "attack", [*hostile.bodies("/v1/orders", VALID, "lines", "user_id")], ids=lambda attack: attack.name
)
async def test_hostile_bodies(shop: Shop, attack: Attack) -> None:
    await hostile.withstand(shop.order, attack)


@pytest.mark.parametrize("operation", ["payment", "cancel"])
@pytest.mark.parametrize(
    ("body", "status"), [(b"[]", 422), (b'{"amount": 1}', 422), (b"{", 400), (b"\0", 400), (b"null", 422)]
)
async def test_calls_without_a_body_take_none(shop: Shop, operation: str, body: bytes, status: int) -> None:
    answer = await shop.order.call("POST", f"{NOBODY}/{operation}", data=body, headers=JSON)
    assert answer.status == status
    assert answer.problem in ("validation-failed", "malformed-body")


@pytest.mark.parametrize("operation", ["payment", "cancel"])
async def test_an_empty_object_is_as_good_as_no_body(shop: Shop, operation: str) -> None:
    answer = await shop.order.call("POST", f"{NOBODY}/{operation}", {})
    assert answer.problem == "order-not-found"


@pytest.mark.parametrize("attack", [*hostile.lists("/v1/orders")], ids=lambda attack: attack.name)
async def test_hostile_lists(shop: Shop, attack: Attack) -> None:
    await hostile.withstand(shop.order, attack)


@pytest.mark.parametrize(
    "query",
    [
        "status=NOPE",
        "status=paid",
        "status=",
        "user_id=",
        "user_id=%00",
        f"user_id={'x' * 129}",
        "user_id=%ed%a0%80",
        "cursor=5b2230225d",  # ["0"], no UUID
        "limit=true",
        "limit=%31%00",
    ],
)
async def test_order_list_refuses_impossible_parameters(shop: Shop, query: str) -> None:
    answer = await shop.order.call("GET", URL(f"/v1/orders?{query}", encoded=True))
    # Bytes that are not text name a user that can't exist, or don't fit the schema.
    assert answer.status in ((422,) if "%ed" not in query else (200, 422))


@pytest.mark.parametrize("attack", [*hostile.paths("/v1/orders/", "order-not-found")], ids=lambda attack: attack.name)
async def test_hostile_paths(shop: Shop, attack: Attack) -> None:
    await hostile.withstand(shop.order, attack)


async def test_an_order_is_found_by_its_id_in_either_case_and_in_no_other_notation(shop: Shop) -> None:
    order_id = (await shop.order.post("/v1/orders", an_order(await a_user(shop), await a_product(shop))))["order_id"]
    assert (await shop.order.get(f"/v1/orders/{order_id.upper()}"))["order_id"] == order_id
    plain = order_id.replace("-", "")
    for text in (f"urn:uuid:{order_id}", f"{{{order_id}}}", plain, f"{plain}----", f"{order_id}%0A"):
        answer = await shop.order.call("GET", URL(f"/v1/orders/{text}", encoded=True))
        assert (answer.status, answer.problem) == (404, "order-not-found")


async def test_a_body_of_64_kib_is_taken_and_a_byte_more_is_not(shop: Shop) -> None:
    body = json.dumps(an_order(await a_user(shop), await a_product(shop))).encode()
    for length, status in ((BODY_MAX_BYTES, 201), (BODY_MAX_BYTES + 1, 413)):
        answer = await shop.order.call("POST", "/v1/orders", data=body.ljust(length), headers=JSON)
        assert answer.status == status


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('{"user_id"', '{"user_id": "somebody else", "user_id"'),
        ('{"user_id"', '{"\\u0075ser_id": "somebody else", "user_id"'),
        ('"quantity"', '"quantity": 1000, "quantity"'),
    ],
)
async def test_an_order_that_has_a_member_twice_is_malformed_and_not_placed(shop: Shop, once: str, twice: str) -> None:
    user = await a_user(shop)
    body = json.dumps(an_order(user, await a_product(shop)))
    answer = await shop.order.call("POST", "/v1/orders", data=body.replace(once, twice), headers=JSON)
    assert (answer.status, answer.problem) == (400, "malformed-body")
    assert await shop.order.all_items("/v1/orders", user_id=user) == []


@pytest.mark.parametrize(
    "text", ["Ω≈ç√", "日本語", "🙂", "a b", "%00", "'; DROP TABLE orders.orders; --", "..", "\u202e"]
)
async def test_ids_may_be_any_printable_text(shop: Shop, text: str) -> None:
    answer = await shop.order.call("POST", "/v1/orders", line(product_id=text))
    assert (answer.status, answer.body["product_ids"]) == (404, [text])
