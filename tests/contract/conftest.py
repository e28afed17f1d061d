"""The stack's clients. Each checks its answers against the service's OpenAPI document."""

import json
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping

import aiohttp
import pytest

from tests.contract.checking import CheckedClient, Document
from tests.contract.customers import Customer
from tests.infrastructure.gateway import SERVICES as BEHIND_GATEWAY
from tests.infrastructure.gateway import gateway
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.shopping import a_coupon, a_product, a_user
from tests.infrastructure.stack import SERVICES, Shop, Stack, shopping


@pytest.fixture(scope="session")
def documents(stack: Stack) -> Mapping[str, Document]:
    """Return the OpenAPI document of each service."""
    found = {}
    for service in SERVICES:
        with urllib.request.urlopen(f"{stack.url(service)}/openapi.json", timeout=10) as response:
            found[service] = json.load(response)
    return found


@pytest.fixture(scope="session")
def gateway_url(stack: Stack, reaper: Reaper) -> Iterator[str]:
    """Run the gateway in front of the stack's services; yield its URL."""
    with gateway({service: stack.url(service) for service in BEHIND_GATEWAY}, reaper) as running:
        yield running.url


@pytest.fixture
async def shop(stack: Stack, documents: Mapping[str, Document]) -> AsyncIterator[Shop]:
    """Return clients of the stack's services that check every answer."""

    def client(service: str, session: aiohttp.ClientSession, url: str) -> CheckedClient:
        return CheckedClient(session, url, documents[service])

    async with shopping(stack, client) as shop:
        yield shop


@pytest.fixture
async def customer(shop: Shop) -> Customer:
    """Return a customer with 1000 and no orders."""
    user = await a_user(shop, 1000)
    return Customer(shop, user, await a_product(shop, stock=10), await a_coupon(shop, user))
