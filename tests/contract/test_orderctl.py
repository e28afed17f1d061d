"""orderctl's calls of the operators' APIs are those of the services' OpenAPI documents, as are the columns it shows."""

import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from deploy.client.transport import Call
from deploy.orderctl import calls, catalogue, orders, outbox, sagas
from tests.contract.agreement import disagreements
from tests.contract.checking import Document
from tests.contract.test_client import named, schema_in, schema_of
from tests.infrastructure.stack import Stack

BODIES = [call for call in calls.CALLS if call.body is not None]
# The lists whose items the documents describe.
COLUMNS = [
    ("order-admin", "/admin/v1/sagas", sagas.LIVE),
    ("order-admin", "/admin/v1/leases", sagas.LEASES),
    ("relay-admin", "/admin/v1/parked", outbox.PARKED),
    ("relay-admin", "/admin/v1/acts", outbox.ACTS),
    ("relay-admin", "/admin/v1/replays", outbox.REPLAYS),
    ("order", "/v1/orders", orders.COLUMNS),
    ("product", "/v1/products", catalogue.PRODUCTS),
    ("coupon", "/v1/coupons", catalogue.COUPONS),
    ("balance", "/v1/accounts/{user_id}/entries", catalogue.ENTRIES),
]


@pytest.fixture(scope="session")
def listeners(stack: Stack, documents: Mapping[str, Document]) -> Mapping[str, Document]:
    """Return the documents of the services, and of the listeners for operators."""
    found = dict(documents)
    for service in ("order", "relay"):
        url = stack.run()["services"][service]["admin_url"]
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as response:
            found[f"{service}-admin"] = json.load(response)
    return found


def operation(call: Call, listeners: Mapping[str, Document]) -> Any:
    """Return what a document says about a call."""
    return listeners[call.service]["paths"][call.path][call.method.lower()]


def test_orderctl_has_every_call_for_operators_and_no_other(listeners: Mapping[str, Document]) -> None:
    described = {
        (listener, method.upper(), path)
        for listener in (calls.ORDER, calls.RELAY)
        for path, operations in listeners[listener]["paths"].items()
        for method in operations
        if path.startswith("/admin/v1/")
    }
    assert {(call.service, call.method, call.path) for call in calls.CALLS} == described


@pytest.mark.parametrize("call", calls.CALLS, ids=named)
def test_query_and_statuses_of_a_call_are_the_documents(call: Call, listeners: Mapping[str, Document]) -> None:
    described = operation(call, listeners)
    assert {one["name"] for one in described["parameters"] if one["in"] == "query"} == call.query
    assert {int(status) for status in described["responses"] if status < "400"} == set(call.replies)
    assert ("requestBody" in described) is (call.body is not None)


@pytest.mark.parametrize("call", BODIES, ids=named)
def test_documents_allow_every_body_that_orderctl_sends(call: Call, listeners: Mapping[str, Document]) -> None:
    described = schema_in(listeners[call.service], operation(call, listeners)["requestBody"])
    assert list(disagreements(schema_of(call.body), described)) == []
    assert described["properties"].keys() == schema_of(call.body)["properties"].keys()


@pytest.mark.parametrize(("listener", "path", "columns"), COLUMNS, ids=[path for _, path, _ in COLUMNS])
def test_columns_are_members_of_what_is_listed(
    listener: str, path: str, columns: Sequence[str], listeners: Mapping[str, Document]
) -> None:
    answer = listeners[listener]["paths"][path]["get"]["responses"]["200"]
    assert set(columns) <= schema_in(listeners[listener], answer)["properties"]["items"]["items"]["properties"].keys()
