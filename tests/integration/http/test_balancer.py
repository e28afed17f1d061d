"""HAProxy with the file of deploy/balancers, before replicas that don't answer."""

from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from tests.infrastructure.balancers import HAProxy, Ports
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port

SERVICES = ("order", "product", "coupon", "balance")


@pytest.fixture(scope="module")
def address(reaper: Reaper) -> Iterator[str]:
    nowhere = Ports(free_port(), free_port())
    balancer = HAProxy(reaper)
    with balancer.running({f"{service}-1": nowhere for service in SERVICES}):
        yield urlsplit(balancer.url).netloc


def status_of(address: str, path: str) -> int:
    with closing(HTTPConnection(address, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.mark.parametrize("path", ["/internal/v1/holds", "/metrics", "/", "/v1", "/v1/", "/v1/order", "/v1//orders"])
def test_path_that_no_service_has_is_not_found(address: str, path: str) -> None:
    assert status_of(address, path) == 404


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/products/pen", "/v1/coupons", "/v1/accounts/me", "/problems"])
def test_path_of_a_service_that_is_away_is_unavailable(address: str, path: str) -> None:
    assert status_of(address, path) == 503
