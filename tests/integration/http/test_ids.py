"""An id in a path is the given id, for all characters and all escapes."""

import asyncio
import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.types import ID_MAX
from tests.infrastructure.gateway import gateway
from tests.infrastructure.reaper import Reaper
from tests.integration.http.serving import Served, serving

PRINTABLE = st.characters(exclude_categories=["Cc", "Cs"])
AWKWARD = st.sampled_from("{}/\\.%25fF#?&;:@+ ~\"'<>[]^`|é\u0301\u202e\U0001f642")
PATH = "/v1/products"
IDS = st.text(PRINTABLE | AWKWARD, min_size=1, max_size=ID_MAX)
NEW_IDS = IDS.map(lambda text: text.translate({ord("/"): None, ord("\\"): None})).filter(
    lambda text: text not in ("", ".", "..")
)
# RFC 3986 allows any character to be escaped, with digits of either case; these need no escape.
BARE = '{}"<>^`|\\'


def escaped_throughout(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def hardly_escaped(text: str) -> str:
    """Escape like a careless client: only characters that would otherwise have another meaning."""
    return quote(text, safe=BARE + "!$&'()*+,;=:@~")


Escape = Callable[[str], str]
ESCAPES = st.sampled_from([lambda text: quote(text, safe=""), escaped_throughout, hardly_escaped])


@dataclass(frozen=True, slots=True)
class Things:
    """The things of a server, requested on one connection."""

    connection: http.client.HTTPConnection

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        self.connection.putrequest(method, path, skip_accept_encoding=True)
        self.connection.endheaders()
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Run the server that the gateway uses as the product service."""
    with serving(asyncio.new_event_loop, PATH) as served:
        yield served


@pytest.fixture(scope="module")
def things(served: Served) -> Iterator[Things]:
    """Open a connection to the server."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=10)) as connection:
        yield Things(connection)


@pytest.fixture(scope="module")
def things_behind_gateway(served: Served, reaper: Reaper) -> Iterator[Things]:
    """Open a connection to the gateway in front of the server."""
    services = dict.fromkeys(("order", "product", "coupon", "balance"), served.url)
    with (
        gateway(services, reaper) as running,
        contextlib.closing(http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=10)) as connection,
    ):
        yield Things(connection)


@given(IDS, ESCAPES)
def test_every_id_is_found_at_its_path(things: Things, text: str, escape: Escape) -> None:
    path = f"{PATH}/{escape(text)}"
    assert things.ask(path) == (200, {"name": text})
    assert things.ask(f"{path}/act", "POST") == (200, {"name": text})


@given(NEW_IDS, ESCAPES)
def test_every_id_that_can_be_made_is_found_through_the_gateway(
    things_behind_gateway: Things, text: str, escape: Escape
) -> None:
    path = f"{PATH}/{escape(text)}"
    assert things_behind_gateway.ask(path) == (200, {"name": text})
    assert things_behind_gateway.ask(f"{path}/act", "POST") == (200, {"name": text})


@pytest.mark.parametrize(
    "segment",
    [
        *("%00", "%0a", "%7f", "%c2%85", "%1b%5b2J"),  # control characters
        *("%ff", "%c3", "%c0%80", "%c0%af", "%e0%80%af", "%ed%a0%80", "%ed%b3%bf", "%f4%90%80%80"),  # not UTF-8
        *("%", "%z", "%zz", "%2", "a%", "%%32F", "%u0041", "%25%"),  # not escapes
        *("a" * (ID_MAX + 1), "%C3%A9" * (ID_MAX + 1)),
    ],
)
def test_invalid_id_names_no_row(things: Things, segment: str) -> None:
    status, problem = things.ask(f"/v1/products/{segment}")
    assert (status, problem["type"]) == (404, "/problems/not-found")


@given(st.binary(min_size=1, max_size=20))
def test_id_of_bytes_that_are_no_text_matches_no_row(things: Things, data: bytes) -> None:
    status, answer = things.ask("/v1/products/" + "".join(f"%{byte:02X}" for byte in data))
    if status == 200:
        assert answer["name"].encode() == data
    else:
        assert status == 404


@pytest.mark.parametrize(
    ("path", "instance"),
    [
        ("/nowhere/%7b%7D%0a%2F%2e%2e", "/nowhere/%7b%7D%0a%2F%2e%2e"),
        ("/nowhere/../a:b@c;d=e,f+g~!$&'()*", "/nowhere/../a:b@c;d=e,f+g~!$&'()*"),
        ('/nowhere/{}"<>|\\^`[]', "/nowhere/%7B%7D%22%3C%3E%7C%5C%5E%60%5B%5D"),
        ("/nowhere/%/%zz%25zz", "/nowhere/%25/%25zz%25zz"),
        ("/v1/products/%00?limit=1", "/v1/products/%00"),
    ],
)
def test_instance_of_a_problem_is_the_sent_path(things: Things, path: str, instance: str) -> None:
    status, problem = things.ask(path)
    assert (status, problem["instance"]) == (404, instance)


@pytest.mark.parametrize("query", ["cursor=%ff", "cursor=%", "cursor=%zz", "cursor=%c0%80", "%ff=1"])
def test_a_query_that_is_no_text_is_refused(things: Things, query: str) -> None:
    status, problem = things.ask(f"/v1/products?{query}")
    assert (status, problem["type"]) == (422, "/problems/validation-failed")
