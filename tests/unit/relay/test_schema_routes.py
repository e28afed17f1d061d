"""The calls that describe the topic for consumers."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.relay import api
from shared.contracts.events import EVENTS
from shared.http.problems import NotFound


def show(type_: str) -> Any:
    route = next(route for route in api.routes("orders.v1") if route.path == "/schemas/{type}.json")
    request: Any = SimpleNamespace(match_info={"type": type_})
    return route.handler(request)


@pytest.mark.parametrize("type_", EVENTS)
async def test_schema_of_each_published_type_is_shown(type_: str) -> None:
    assert (await show(type_)).status == 200


async def test_schema_of_an_unknown_type_is_not_found() -> None:
    with pytest.raises(NotFound):
        await show("order.lost.v1")
