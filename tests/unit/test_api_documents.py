"""The OpenAPI documents say what the services enforce: examples that fit, bounds of parameters, every problem type."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, TypeAdapter, ValidationError

from services.coupon.api import CouponPage
from services.order.admin.api import SagasQuery
from services.order.api import OrdersQuery
from services.relay.completeness.digests import DigestsQuery, EventsQuery
from shared.contracts.problem_types import CATALOGUE
from shared.contracts.types import Page
from shared.http.idempotency import HEADER
from shared.http.openapi_examples import UNKNOWN
from shared.http.routes import Route
from shared.identity.callers import PUBLIC
from tests.unit.documents import Documented, documents

CURSOR = "5b2261225d"
QUERIES: list[tuple[type[BaseModel], dict[str, str]]] = [
    (Page, {}),
    *((Page, {"limit": limit}) for limit in ("1", "100", "101", "9" * 40, "0", "-5", "ten", "1.5")),
    *((Page, {"cursor": cursor}) for cursor in (CURSOR, "", "xyz", CURSOR.upper(), "5b2", "ab" * 1024, "ab" * 1025)),
    *((OrdersQuery, {"status": status}) for status in ("PAID", "paid", "")),
    *((OrdersQuery, {"user_id": user_id}) for user_id in ("alice", "a" * 128, "a" * 129, "", "a\x00")),
    *((CouponPage, {"status": status}) for status in ("RESERVED", "PAID")),
    *((SagasQuery, {"older_than_seconds": age}) for age in ("0", "2.5", "1e9", "-1", "1e10", "nan")),
    *((SagasQuery, {"state": state}) for state in ("stuck", "DONE")),
    *((DigestsQuery, {"from": "2026-01-05T09:30:00Z", "shard": shard}) for shard in ("0", "3", "4", "-1")),
    (DigestsQuery, {}),
    *((EventsQuery, {"order_id": order_id}) for order_id in ("019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11", "alice", "")),
    *(
        (EventsQuery, {"shard": "0", "bucket": "2026-01-05T09:30:00Z", "limit": limit})
        for limit in ("1", "1001", "0", "")
    ),
]


@pytest_asyncio.fixture(params=["open", "jwt"])
async def listeners(request: pytest.FixtureRequest) -> list[Documented]:
    """Return all documents, in both modes."""
    return await documents(request.param)


def every_route(listeners: list[Documented]) -> Iterator[tuple[str, Route, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield a name for messages, the route, its operation and its document."""
    for one in listeners:
        for route in one.routes:
            yield f"{one.name}: {route.method} {route.path}", route, one.operation(route), one.document


def examples(operation: Mapping[str, Any], route: Route) -> Iterator[tuple[type[BaseModel], Any, Any]]:
    """Yield the model of each body and reply with its schema and example in the document."""
    if route.body:
        content = operation["requestBody"]["content"]["application/json"]
        yield route.body, content["schema"], content["example"]
    for status, model in route.replies.items():
        if model:
            content = operation["responses"][str(status)]["content"]["application/json"]
            yield model, content["schema"], content["example"]


def fits(schema: Any, document: Mapping[str, Any], value: Any) -> list[str]:
    validator = Draft202012Validator(
        {**schema, "components": document["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    return [error.message for error in validator.iter_errors(value)]


async def test_documents_are_valid(listeners: list[Documented]) -> None:
    for one in listeners:
        OpenAPIV31SpecValidator(dict(one.document)).validate()


async def test_every_body_and_reply_has_an_example_that_its_model_takes(listeners: list[Documented]) -> None:
    for name, route, operation, document in every_route(listeners):
        for model, schema, example in examples(operation, route):
            assert fits(schema, document, example) == [], (name, model)
            assert UNKNOWN not in str(example), (name, model, example)
            try:
                model.model_validate_json(json.dumps(example))
            except ValidationError as error:
                pytest.fail(f"{name}, {model.__name__}: {error}")


async def test_every_parameter_of_a_path_has_an_example_that_fits(listeners: list[Documented]) -> None:
    for name, _, operation, document in every_route(listeners):
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                assert fits(parameter["schema"], document, parameter["example"]) == [], name


async def test_every_parameter_is_bounded(listeners: list[Documented]) -> None:
    """A text has a format, a choice or a longest length, and a number is at least something."""
    for name, _, operation, _document in every_route(listeners):
        for parameter in operation["parameters"]:
            schema = parameter["schema"]
            kinds = {"maxLength", "format", "enum", "minimum", "const", "$ref"}
            assert kinds & schema.keys() or parameter["name"] == "type", (name, parameter)
            assert "null" not in str(schema), (name, parameter)


async def test_every_refusal_is_listed_with_a_link_to_its_page(listeners: list[Documented]) -> None:
    for name, route, operation, document in every_route(listeners):
        for status, response in operation["responses"].items():
            content = response["content"].get("application/problem+json")
            if content is None:
                continue
            types = set(content["schema"]["properties"]["type"]["enum"])
            slugs = set(content["examples"])
            assert types == {CATALOGUE[slug].path for slug in slugs}, name
            assert set(re.findall(r"\[`([a-z-]+)`\]\(/problems/\1\)", response["description"])) == slugs, name
            assert {CATALOGUE[slug].status for slug in slugs} == {int(status)}, name
            for slug, example in content["examples"].items():
                assert fits(content["schema"], document, example["value"]) == [], (name, slug)
        listed = {
            slug
            for response in operation["responses"].values()
            for slug in response["content"].get("application/problem+json", {}).get("examples", {})
        }
        expected = {refusal.slug for refusal in route.refusals}
        if "securitySchemes" not in document["components"]:
            expected -= {"forbidden"}
            assert not {"unauthenticated", "forbidden"} & listed, name
        elif route.policy is not PUBLIC:
            assert "unauthenticated" in listed, name
        assert listed >= expected | {"bad-request", "expectation-failed", "internal-error", "unavailable"}, name


async def test_answer_that_asks_to_wait_documents_for_how_long(listeners: list[Documented]) -> None:
    for name, _, operation, _document in every_route(listeners):
        for status in ("429", "503"):
            if status in operation["responses"]:
                assert "Retry-After" in operation["responses"][status]["headers"], (name, status)
        for response in operation["responses"].values():
            assert {"X-Request-Id", "traceparent"} <= response["headers"].keys(), name


async def test_keyed_calls_of_clients_are_those_of_the_contract(listeners: list[Documented]) -> None:
    keyed = {
        (route.method, route.path)
        for _, route, operation, _ in every_route(listeners)
        if any(parameter["name"] == HEADER for parameter in operation["parameters"])
    }
    assert keyed == {
        ("POST", "/v1/orders"),
        ("POST", "/v1/orders/{order_id:uuid}/payment"),
        ("POST", "/v1/orders/{order_id:uuid}/cancel"),
        ("POST", "/v1/accounts/{user_id}/charges"),
    }


async def test_open_mode_asks_for_no_token() -> None:
    for one in await documents("open"):
        assert "securitySchemes" not in one.document["components"]
        assert not [route for route in one.routes if "security" in one.operation(route)]


@pytest.mark.parametrize(("model", "query"), QUERIES, ids=str)
async def test_document_and_service_accept_the_same_queries(model: type[BaseModel], query: dict[str, str]) -> None:
    """A parameter's text is JSON if its schema is of a number, as api.md says."""
    [(operation, document)] = [
        (operation, document)
        for _, route, operation, document in every_route(await documents("open"))
        if route.query is model
    ][:1]
    parameters = {parameter["name"]: parameter for parameter in operation["parameters"] if parameter["in"] == "query"}
    missing = [name for name, one in parameters.items() if one["required"] and name not in query]
    documented = not missing and not any(
        fits(parameters[name]["schema"], document, _read(text, parameters[name]["schema"]))
        for name, text in query.items()
    )
    try:
        TypeAdapter(model).validate_python(query)
    except ValidationError:
        assert not documented
    else:
        assert documented


def _read(text: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("type") not in ("integer", "number"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
