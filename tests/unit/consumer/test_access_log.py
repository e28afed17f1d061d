"""Which of the reference consumer's answers are logged."""

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from deploy.consumer.api import Api
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.stopping import Stop

ADDRESSES = {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1"}


@pytest.mark.parametrize(
    ("level", "logged"), [("all", [200, 404, 500, 503]), ("errors", [500, 503]), ("off", [])], ids=str
)
async def test_answers_are_logged_according_to_the_setting(level: str, logged: list[int]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.path[1:]))

    settings = ConsumerSettings.model_validate({**ADDRESSES, "access_log": level})
    pool: Any = None
    api = Api(settings, pool, {}, Stop())
    with capture_logs() as logs:
        for status in (200, 404, 500, 503):
            await api._answer(make_mocked_request("GET", f"/{status}"), answer)
    assert [entry["status"] for entry in logs] == logged
