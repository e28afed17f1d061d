"""The console's own call is that of the relay's OpenAPI document, as are the members that its page shows."""

from collections.abc import Mapping

import pytest

from deploy.console.pages.orders import EVENTS_OF_ORDER
from deploy.console.pages.services import SETTINGS, Setting
from tests.contract.checking import Document
from tests.contract.test_client import schema_in
from tests.infrastructure.stack import SERVICES

SHOWN = {"sequence", "type", "occurred_at", "status"}


def test_events_of_an_order_are_read_as_the_document_says(documents: Mapping[str, Document]) -> None:
    call, document = EVENTS_OF_ORDER, documents[EVENTS_OF_ORDER.service]
    described = document["paths"][call.path][call.method.lower()]
    assert call.query <= {one["name"] for one in described["parameters"] if one["in"] == "query"}
    assert {int(status) for status in described["responses"] if status < "400"} == set(call.replies)
    items = schema_in(document, described["responses"]["200"])["properties"]["items"]["items"]
    assert items["properties"].keys() >= SHOWN


@pytest.mark.parametrize("service", SERVICES)
def test_settings_of_a_replica_are_read_as_the_document_says(documents: Mapping[str, Document], service: str) -> None:
    document = documents[service]
    answer = schema_in(document, document["paths"][SETTINGS]["get"]["responses"]["200"])
    assert answer["properties"].keys() == {"items", "hidden"}
    assert answer["properties"]["items"]["items"]["properties"].keys() == set(Setting._fields)
