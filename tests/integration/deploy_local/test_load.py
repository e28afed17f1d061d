"""A customer of `make load`, before something else than the services."""

import asyncio

import aiohttp
from aiohttp import web

from deploy.client import Client, OrderStatus, Service
from deploy.local.load import Tally, customer
from deploy.local.progress import Progress
from tests.integration.client.samples import an_order
from tests.integration.client.server import answer, misbehaving


async def test_answer_that_can_not_be_read_is_counted_and_the_customer_goes_on() -> None:
    ends, tally = asyncio.Event(), Tally()

    async def last(request: web.Request) -> web.StreamResponse:
        ends.set()
        return await answer(201, an_order())(request)

    async with misbehaving() as server, aiohttp.ClientSession() as session:
        server.will(answer(418, "a teapot"), last)
        client = Client(dict.fromkeys(Service, server.url), session=session)
        await customer(client, "ann", tally, ends, Progress(""))
    assert tally.ended == {OrderStatus.PAID: 1}
    (told,) = tally.without_answer
    assert "status 418" in told
    assert not tally.is_good
