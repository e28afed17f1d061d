"""The OpenAPI document says what the product takes: fields by mode, and the bounds of texts."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from services.coupon.api import NewCoupon
from services.product.api import NewProduct, ProductChange
from services.relay.replay.api import NewReplay
from shared.http.idempotency import HEADER, KEY_DESCRIPTION
from shared.http.openapi import document
from shared.http.openapi_examples import Examples
from shared.http.routes import Route
from shared.identity.callers import SIGNED_IN
from shared.operators import Act


def spec(mode: str) -> dict[str, Any]:
    async def handler(_request: Any) -> Any: ...

    routes = [
        Route("POST", "/v1/acts/{id}", SIGNED_IN, handler, "Act", {200: None}, body=Act, headers=KEY_DESCRIPTION),
        Route("GET", "/v1/acts", SIGNED_IN, handler, "List", {200: None}),
    ]
    return document("test", "1", "For tests.", routes, mode)


@pytest.mark.parametrize(
    ("mode", "expected"), [("open", {"actor", "reason", "dry_run"}), ("jwt", {"reason", "dry_run"})]
)
def test_document_has_the_actor_in_open_mode_only(mode: str, expected: set[str]) -> None:
    assert set(spec(mode)["components"]["schemas"]["Act"]["properties"]) == expected
    assert "x-open-mode-only" not in str(spec(mode))


def test_document_bounds_the_texts_of_paths_and_headers() -> None:
    parameters = spec("jwt")["paths"]["/v1/acts/{id}"]["post"]["parameters"]
    assert {parameter["name"] for parameter in parameters if "maxLength" in parameter["schema"]} == {"id", HEADER}


def test_document_names_the_failures_of_every_call() -> None:
    for path, method, more in (("/v1/acts", "get", set()), ("/v1/acts/{id}", "post", {"408", "413", "415", "422"})):
        known = {"200", "400", "401", "417", "500", "503"} | more
        assert set(spec("jwt")["paths"][path][method]["responses"]) == known


@pytest.mark.parametrize("key", ["a", "a b", "x" * 255, '"a"', '"\\""', '"' + '\\"' * 255 + '"'])
def test_document_allows_the_keys_that_are_accepted(key: str) -> None:
    schema = KEY_DESCRIPTION[HEADER]["schema"]
    assert re.fullmatch(schema["pattern"], key)
    assert schema["minLength"] <= len(key) <= schema["maxLength"]


@pytest.mark.parametrize("key", ["", " ", "x" * 256, '"', '"a', '""', '"' + "x" * 256 + '"', 'x"\x00', "\x7f"])
def test_document_forbids_the_keys_that_are_refused(key: str) -> None:
    assert not re.fullmatch(KEY_DESCRIPTION[HEADER]["schema"]["pattern"], key)


COUPON = {"user_id": "alice", "kind": "percent", "value": 100}
REPLAY = {"topic": "again", "reason": "x", "actor": "olga"}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (ProductChange, {"name": "Tea"}),
        (ProductChange, {"name": None, "price": 1}),
        (ProductChange, {}),
        (ProductChange, {"name": None}),
        (ProductChange, {"name": None, "price": None}),
        (NewProduct, {"name": "Tea", "price": 1, "stock": 1, "product_id": "a b"}),
        (NewProduct, {"name": "Tea", "price": 1, "stock": 1, "product_id": ".."}),
        (NewProduct, {"name": "Tea", "price": 1, "stock": 1, "product_id": "a/b"}),
        (NewProduct, {"name": "Tea\x00", "price": 1, "stock": 1}),
        (NewCoupon, COUPON),
        (NewCoupon, {**COUPON, "value": 101}),
        (NewCoupon, {**COUPON, "kind": "fixed", "value": 101}),
        (NewCoupon, {**COUPON, "user_id": "a\x85"}),
        (NewReplay, {**REPLAY, "type": "order.paid.v1"}),
        (NewReplay, {**REPLAY, "type": "order.lost.v1"}),
    ],
)
def test_schema_and_model_accept_the_same_bodies(model: type[BaseModel], body: dict[str, Any]) -> None:
    def accepted() -> bool:
        try:
            model.model_validate(body)
        except ValidationError:
            return False
        return True

    assert Draft202012Validator(model.model_json_schema()).is_valid(body) == accepted()


def test_location_is_documented_where_a_route_gives_it() -> None:
    async def handler(_request: Any) -> Any: ...

    replies: dict[int, None] = {200: None, 201: None, 202: None}
    routes = [
        Route("POST", "/v1/orders", SIGNED_IN, handler, "Order", replies, locates=True),
        Route("POST", "/v1/acts", SIGNED_IN, handler, "Act", replies),
    ]
    paths = document("test", "1", "For tests.", routes, "open")["paths"]
    located = {
        path: [int(status) for status, answer in calls["post"]["responses"].items() if "Location" in answer["headers"]]
        for path, calls in paths.items()
    }
    assert located == {"/v1/orders": [201, 202], "/v1/acts": []}


def test_example_of_what_may_be_null_is_a_value() -> None:
    choices = [{"type": "null"}, {"type": "integer"}]
    assert Examples({"Choice": {"anyOf": choices}}, "open").of_model("Choice") == 1
