"""Paths that a proxy and a service could read differently end at the gateway; all others arrive as they were sent."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.infrastructure.gateway import SERVICES, gateway
from tests.infrastructure.raw_http import send
from tests.infrastructure.reaper import Reaper
from tests.integration.http.messages import get, post
from tests.integration.http.upstream import upstream

UUID = b"019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"
REFUSED = [
    # A slash within a segment.
    *(
        b"/v1/orders/a%2fb",
        b"/v1/orders/a%2Fb",
        b"/v1/orders/%2f",
        b"/v1/orders/%2F",
        b"/v1/orders%2f",
        b"/v1%2forders",
    ),
    *(b"/%2f", b"/%2fv1/orders", b"%2fv1/orders", b"/v1/orders/a/payment%2f", b"/v1/orders/a%2fpayment"),
    *(
        b"/v1/products/a%2fstock",
        b"/v1/accounts/me%2fentries",
        b"/v1/accounts/bob%2f..%2fme/entries",
        b"/%2f%2fx.example",
    ),
    *(b"/v1/orders/%2f%2e%2e", b"/v1/orders/%%2f", b"/v1/orders/a%2f?x=1", b"/v1/orders/a%2f#x", b"/v1/orders/%C0%2f"),
    # A backslash, which browsers' rules for addresses read as a slash.
    *(
        b"/v1/orders/a%5cb",
        b"/v1/orders/a%5Cb",
        b"/v1/orders/%5c",
        b"/v1/orders%5c..",
        b"/v1%5corders",
        b"/%5c%5cx.example",
    ),
    *(
        b"/v1/orders/a\\b",
        b"/v1\\orders",
        b"/\\x.example",
        b"/v1/orders/..\\..\\internal",
        b"/v1/orders/..%5c..%5cinternal",
    ),
    # NUL, at which some programs end a text.
    *(
        b"/v1/orders/%00",
        b"/v1/orders/a%00",
        b"/v1/orders/a%00b",
        b"/%00",
        b"/v1/orders%00/x",
        b"/internal/v1/books%00/v1/orders",
    ),
    # Dot segments.
    *(b"/.", b"/..", b"/./v1/orders", b"/v1/.", b"/v1/..", b"/v1/./orders", b"/v1/orders/.", b"/v1/orders/./a"),
    *(b"/v1/orders/..", b"/v1/orders/../", b"/v1/orders/../orders", b"/v1/orders/a/../b", b"/v1/orders/a/..?x=/y"),
    *(
        b"/v1/orders/a/..#x",
        b"/v1/orders/.?",
        b"/v1/orders/../../internal/v1/books",
        b"/v1/orders/..//..//internal/v1/books",
    ),
    *(
        b"/internal/../v1/orders",
        b"/metrics/../v1/orders",
        b"/v1/../v1/orders",
        b"/../v1/orders",
        b"/v1/../../v1/orders",
    ),
    # Encoded dot segments.
    *(b"/v1/orders/%2e", b"/v1/orders/%2E", b"/v1/orders/%2e/a", b"/v1/orders/%2e%2e", b"/v1/orders/%2E%2E/products"),
    *(
        b"/v1/orders/.%2e",
        b"/v1/orders/%2e.",
        b"/v1/orders/.%2E/",
        b"/v1/orders/%2e./a",
        b"/%2e%2e/v1/orders",
        b"/%2e/v1/orders",
    ),
    *(b"/v1/%2e%2e/internal/v1/books", b"/v1/orders/%2e%2e?x", b"/v1/orders/%2e%2e/%2e%2e/internal/v1/books"),
    # All of them together, towards what is not for clients and back.
    b"/internal/v1/outcomes/" + UUID + b"%2f..%2f..%2f..%2f..%2fv1%2fproducts",
    b"/internal/v1/outcomes/" + UUID + b"%2F%2e%2e%2F%2e%2e%2F%2e%2e%2F%2e%2e%2Fv1%2Fproducts",
    b"/internal/v1/outcomes/" + UUID + b"/../../../../v1/products",
    b"/internal/v1/outcomes/" + UUID + b"%5c..%5c..%5c..%5c..%5cv1%5cproducts",
    b"/v1/products/..%2f..%2finternal%2fv1%2fcommands",
    b"/v1/products/%2e%2e%2f%2e%2e%2finternal%2fv1%2fcommands",
    b"/v1/products/../../internal/v1/commands",
    b"/v1/products/x/..%2f..%2f..%2fmetrics",
    b"/v1/orders/..;/..%2finternal",
    b"http://gateway/v1/orders/..%2f..%2fmetrics",
    b"http://gateway/v1/orders/../../metrics",
]
# Characters that are encoded twice belong to an id, since everybody decodes once. The rest only looks similar.
SENT_ON = [
    *(b"a%252fb", b"a%252Fb", b"%252e%252e", b"%252e", b"a%255cb", b"%2500", b"%25%32%66", b"%25%32%65"),
    *(
        b"...",
        b"..a",
        b"a..",
        b".a",
        b"a.",
        b"%2e%2e%2e",
        b"..%61",
        b"%2ea",
        b"..;",
        b".;x",
        b"..%3b",
        b"..%3f",
        b"..%23",
    ),
    *(b"%c0%af", b"%c0%ae", b"%e0%80%af", b"%ef%bc%8f", b"%e2%81%84", b"%e2%88%95", b"%ef%bc%bc", b"%f0%9f%98%80"),
    *(
        b"a+b&c=d;e,f:g@h!i$j'k(l)m*n",
        b"~%7E",
        b"{x}",
        b"%7Bx%7D",
        b"%22%3C%3E%5E%60%7C",
        b"%20",
        b"%0a",
        b"%01",
        b"a//b",
    ),
    *(b"a?x=%2f", b"a?x=..%2f..%5c%00", b"a?/../", b"a?\\", b"a?x=/%2e%2e/", b"?%2f", b"a/entries?cursor=%20%2F{}"),
]


@pytest.fixture(scope="module")
def gateway_url(reaper: Reaper) -> Iterator[str]:
    """Run the gateway before services that answer with the request's first line."""
    with upstream() as url, gateway(dict.fromkeys(SERVICES, url), reaper) as running:
        yield running.url


@pytest.mark.parametrize("path", REFUSED)
async def test_path_that_can_be_read_in_two_ways_is_refused(gateway_url: str, path: bytes) -> None:
    for data in (get(path), post(path=path), get(path, b"Expect: patience\r\n"), get(path, version=b"HTTP/1.0")):
        answer = await send(gateway_url, data)
        assert (answer.status, answer.problem["type"]) == (400, "/problems/bad-request")


@pytest.mark.parametrize("rest", SENT_ON)
async def test_path_that_can_be_read_in_one_way_arrives_as_sent(gateway_url: str, rest: bytes) -> None:
    for target in (b"/v1/accounts/" + rest, b"/v1/products/x/" + rest):
        answer = await send(gateway_url, get(target))
        assert (answer.status, answer.body) == (200, b"GET " + target + b" HTTP/1.1")


PIECES = st.sampled_from(
    ["/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", "\\", "%00", "%25", "2f", "a", "?"]
)


def is_ambiguous(target: str) -> bool:
    path = target.partition("?")[0].lower()
    segments = [segment.replace("%2e", ".") for segment in path.split("/")]
    return any(part in path for part in ("%2f", "%5c", "%00", "\\")) or "." in segments or ".." in segments


@given(st.lists(PIECES, max_size=8).map("".join))
async def test_gateway_refuses_exactly_the_ambiguous_paths(gateway_url: str, rest: str) -> None:
    target = f"/v1/accounts/{rest}"
    answer = await send(gateway_url, get(target.encode()))
    assert answer.status == (400 if is_ambiguous(target) else 200)
