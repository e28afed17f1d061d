"""The page of an AsyncAPI document has all of it: channels, messages, headers, and the fields of every schema."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.relay import api, schemas
from shared.http.asyncapi_page import asyncapi_page
from shared.http.pages import POLICY
from tests.unit.page_reading import ReadPage

DOCUMENT: Mapping[str, Any] = schemas.asyncapi("orders.v1", "1.2.3")


@pytest.fixture(scope="module")
def page() -> ReadPage:
    """Return the page of the relay's document."""
    return ReadPage(asyncapi_page(DOCUMENT, "/asyncapi.json"))


def test_page_has_every_channel_message_and_header(page: ReadPage) -> None:
    assert "Version 1.2.3." in page.text
    for channel in DOCUMENT["channels"].values():
        assert channel["address"] in page.text
        assert channel["description"] in page.text
    for message in DOCUMENT["components"]["messages"].values():
        assert message["name"] in page.text
        assert message["summary"] in page.text
        assert not [name for name in message["headers"]["properties"] if name not in page.text]
    for operation in DOCUMENT["operations"].values():
        assert operation["summary"] in page.text


def test_page_has_every_field_with_its_meaning(page: ReadPage) -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        for name, field in schema.get("properties", {}).items():
            assert name in page.text
            assert field.get("description", "").replace("`", "") in page.text


def test_every_link_of_the_page_leads_somewhere(page: ReadPage) -> None:
    inner = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inner
    assert inner <= page.anchors == set(DOCUMENT["components"]["schemas"])
    assert page.links - {f"#{name}" for name in inner} == {"/asyncapi.json"}


def test_page_runs_and_loads_nothing(page: ReadPage) -> None:
    assert page.is_passive


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "string"),
        ({"type": "string", "format": "uuid"}, "uuid"),
        ({"type": "integer", "minimum": 1, "maximum": 9}, "integer, at least 1, at most 9"),
        ({"type": "string", "pattern": "^<$"}, "string, pattern ^<$"),
        ({"const": True}, "True"),
        ({"enum": ["a", "b"]}, "a or b"),
        (
            {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Line"}},
            "list of Line, at least 1 items",
        ),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({}, "anything"),
    ],
)
def test_type_is_told_in_words(schema: dict[str, Any], text: str) -> None:
    document = {
        "info": {"title": "T", "version": "1", "description": "D."},
        "channels": {},
        "operations": {},
        "components": {"schemas": {"Thing": {"properties": {"field": schema}}, "Line": {"type": "object"}}},
    }
    assert f"field{text}may be missing" in ReadPage(asyncapi_page(document, "/x")).text


async def test_relay_serves_the_page_to_everybody() -> None:
    [route] = [route for route in api.routes("orders.v1") if route.is_page]
    request: Any = None
    answer = await route.handler(request)
    assert (route.path, route.policy.value, answer.content_type) == ("/asyncapi", "public", "text/html")
    assert answer.headers["Content-Security-Policy"] == POLICY
