"""HAProxy with the files of deploy/cells leads each request to the cell that the services say owns it."""

import asyncio
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote, urlsplit
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.balance.api import BalanceApi
from services.coupon.api import CouponApi
from services.order.api import OrderApi
from services.order.engine.admission import Admission
from services.order.engine.registry import SagaRegistry
from services.product.api import ProductApi
from shared.http import problems
from shared.http.server import HttpServer
from shared.identity.authenticator import JwtAuthenticator
from shared.identity.keys import IssuerKeys
from shared.ids import uuid7
from shared.process.stopping import Stop
from shared.slots import SLOTS, Ownership, slot_of
from tests.infrastructure.issuer import EC, NOW, RULES, claims, jwk_set, sign
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.router import CHOSEN_CELL, CHOSEN_SLOT, Router, router
from tests.infrastructure.waiting import free_port, listens, wait_until
from tests.integration.http.serving import START_SECONDS, STOP_SECONDS, Settings
from tests.unit.documents import NOBODY

SINCE = datetime(2026, 12, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
# A cell that owns nothing: the services refuse every request whose user or order they know, and name the slot.
NOTHING = Ownership(frozenset(), older=False, since_milliseconds=int(SINCE.timestamp()) * 1000)
OLDER = -1
NONE = -2  # the router answered itself
BACKENDS = (
    "product-0",
    "product-1",
    *(f"cell-{cell}-{name}" for cell in (0, 1) for name in ("order", "coupon", "balance")),
)
CLIENTS = 8
ENDED_SECONDS = 0.3  # in which HAProxy would close an idle connection
# A request may take long on a busy machine.
OVER_HTTP = settings(deadline=None)
LINES = [{"product_id": "cup", "quantity": 1}]
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=128)
SUBJECTS = TEXTS.filter(str.isprintable)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that passed the router: which slot and cell it has chosen, and the answer itself."""

    slot: int
    cell: str
    status: int
    body: Mapping[str, Any]

    @property
    def read(self) -> int:
        """Return the slot of the user or order that the services read; OLDER for an order without a slot."""
        assert (self.status, self.body["type"]) == (421, "/problems/misdirected"), self
        return int(self.body.get("slot", OLDER))


class Asker:
    """Sends requests as bytes, one after another on one connection."""

    def __init__(self, url: str) -> None:
        self._address = ("127.0.0.1", cast("int", urlsplit(url).port))
        self._socket: socket.socket | None = None

    def ask(self, method: str, target: str | bytes, *headers: bytes, body: Any = None) -> Reply:
        """Send a request, and return the answer of the services behind the router."""
        content = b"" if body is None else json.dumps(body).encode()
        raw = target if isinstance(target, bytes) else target.encode()
        lines = [b"%s %s HTTP/1.1" % (method.encode(), raw), b"Host: router", b"Content-Type: application/json"]
        lines += [b"Content-Length: %d" % len(content), *headers, b"", content]
        status, found, answer = self._exchange(b"\r\n".join(lines))
        slot, cell = int(found.get(CHOSEN_SLOT, NONE)), found.get(CHOSEN_CELL, "")
        return Reply(slot, cell, status, json.loads(answer))

    def _exchange(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=START_SECONDS)
        self._socket.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._received()
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        while len(rest) < int(headers["content-length"]):
            rest += self._received()
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), headers, rest

    def _received(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(65536)
        assert data, "the connection was closed without an answer"
        return data

    @property
    def is_open(self) -> bool:
        """Return whether the last answer left the connection open."""
        return self._socket is not None

    def has_ended(self, *, within_seconds: float) -> bool:
        """Return whether the other side closes the idle connection within this time."""
        assert self._socket is not None
        return bool(select.select([self._socket], [], [], within_seconds)[0])

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@pytest.fixture(scope="module")
def services_port() -> Iterator[int]:
    """Serve the public calls of order, coupon and balance in jwt mode, in another thread."""
    port, loop, stop = free_port(), asyncio.new_event_loop(), Stop()

    async def keys() -> bytes:
        return jwk_set(EC)

    async def serve() -> None:
        checkout = cast("Any", SimpleNamespace(deadline=lambda: 0.0))
        routes = [
            *OrderApi(NOBODY, checkout, Admission(SagaRegistry(), 1), NOTHING, client_timeout_seconds=1.0).routes(),
            *CouponApi(NOBODY, "KRW", NOTHING, 1.0).routes(),
            *BalanceApi(NOBODY, "KRW", NOTHING, 1.0).routes(),
            *ProductApi(NOBODY, "KRW", 1.0, slots=()).routes(),
        ]
        settings = Settings(port=port, database_url="postgresql://nowhere", auth_mode="jwt")
        async with IssuerKeys(keys) as issuer:
            authenticator = JwtAuthenticator(RULES, issuer, clock=lambda: NOW)
            await HttpServer("all", "All services.", settings, authenticator, routes, {}).run(stop)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    wait_until(lambda: listens("127.0.0.1", port), START_SECONDS, "the services")
    yield port
    loop.call_soon_threadsafe(stop.set)
    thread.join(STOP_SECONDS)
    loop.close()


@pytest.fixture(scope="module")
def running(services_port: int, reaper: Reaper) -> Iterator[Router]:
    ports = {name: [(services_port, services_port)] for name in BACKENDS}
    with router(ports, reaper, since_milliseconds=NOTHING.since_milliseconds) as running:
        yield running


@pytest.fixture(scope="module")
def asker(running: Router) -> Iterator[Asker]:
    with closing(Asker(running.url)) as asker:
        wait_until(lambda: asker.ask("GET", "/v1/orders", TOKEN).status == 421, START_SECONDS, "a checked server")
        yield asker


def bearer(payload: Any = None, **changes: Any) -> bytes:
    """Return a header with a token; its scope is everything."""
    every = {"scope": "orders:write coupons:write accounts:charge catalog:write", **changes}
    return b"Authorization: Bearer " + sign(claims(**every) if payload is None else payload, EC, "ES256").encode()


TOKEN = bearer(sub="olga")


def escaped(text: str, spell: Callable[[int, bytes], bytes]) -> bytes:
    """Return a text for a path or query: each byte of its UTF-8 as `spell` writes it, given its place."""
    return b"".join(spell(place, bytes([byte])) for place, byte in enumerate(text.encode()))


NOWHERE = [
    *("/internal/v1/holds", "/metrics", "/readyz", "/admin/v1/audit", "/", "/v1", "/v1/", "/v1/order", "/v1//orders"),
    *("/v1/../internal/v1/holds", "/v1/%2e%2e/metrics"),
]
# What a path or a query may have without an escape.
PLAIN_IN_PATH = frozenset(b"abcxyzABCXYZ0123456789-._~!$&'()*+,;=:@")
PLAIN_IN_QUERY = PLAIN_IN_PATH - frozenset(b"+&") | frozenset(b"/?")


def spelling(random: Any, plain: Set[int] = PLAIN_IN_PATH) -> Callable[[int, bytes], bytes]:
    """Return a way to write bytes: as they are where they may be, or with escapes in either case."""

    def spell(_place: int, byte: bytes) -> bytes:
        if byte[0] in plain and random.random() < 0.5:
            return byte
        return (b"%%%02x" if random.random() < 0.5 else b"%%%02X") % byte[0]

    return spell


@OVER_HTTP
@given(TEXTS, st.randoms(use_true_random=False), st.sampled_from(["", "/entries", "/charges"]))
@example("a+b c", None, "")
@example("김민수/한글?#%41", None, "/entries")
def test_accounts_are_routed_by_the_user_in_the_path(asker: Asker, user_id: str, random: Any, suffix: str) -> None:
    spelt = escaped(user_id, spelling(random)) if random else quote(user_id, safe="+").encode()
    method, body = ("POST", {"amount": 1}) if suffix == "/charges" else ("GET", None)
    reply = asker.ask(method, b"/v1/accounts/" + spelt + suffix.encode(), TOKEN, b"X-Slot: 7", body=body)
    assert reply.slot == reply.read == slot_of("olga" if user_id == "me" else user_id)


@OVER_HTTP
@given(TEXTS, st.randoms(use_true_random=False), st.sampled_from(["", "/stock"]))
@example("me", None, "")
@example("a+b c", None, "/stock")
def test_products_are_routed_by_their_id(asker: Asker, product_id: str, random: Any, suffix: str) -> None:
    spelt = escaped(product_id, spelling(random)) if random else quote(product_id, safe="+").encode()
    method, body = ("POST", {"delta": 1}) if suffix else ("GET", None)
    target = b"/v1/products/" + spelt + suffix.encode() + b"?user_id=bob"
    reply = asker.ask(method, target, TOKEN, b"X-Slot: 7", body=body)
    assert reply.slot == reply.read == slot_of(product_id)
    assert reply.cell == ("product-0" if reply.slot < 2048 else "product-1")


def test_product_that_is_created_is_routed_by_the_header_and_a_list_to_one_shard(asker: Asker) -> None:
    new = {"product_id": "cup", "name": "Cup", "price": 1, "stock": 1}
    reply = asker.ask("POST", "/v1/products", TOKEN, body=new)
    assert (reply.slot, reply.cell, reply.read) == (0, "product-0", slot_of("cup"))
    again = asker.ask("POST", "/v1/products", TOKEN, b"X-Slot: %d" % reply.read, body=new)
    assert again.slot == again.read


@OVER_HTTP
@given(TEXTS, st.randoms(use_true_random=False), st.sampled_from(["orders", "coupons", "coupons/C1"]))
@example("a+b c", None, "orders")
def test_lists_are_routed_by_the_user_in_the_query(asker: Asker, user_id: str, random: Any, what: str) -> None:
    spelt = (
        escaped(user_id, spelling(random, PLAIN_IN_QUERY)) if random else quote(user_id).replace("%20", "+").encode()
    )
    query = b"user_id=" + spelt
    if random and what != "coupons/C1":
        query = b"limit=3&" + query if random.random() < 0.5 else query + b"&limit=3"
    reply = asker.ask("GET", b"/v1/%s?%s" % (what.encode(), query), TOKEN, b"X-Slot: 7")
    assert reply.slot == reply.read == slot_of(user_id)


@OVER_HTTP
@given(st.integers(0, SLOTS - 1), st.integers(-(2**40), 2**40), st.randoms(use_true_random=False))
@example(0, 0, None)
@example(4095, -1, None)
def test_an_order_is_routed_by_its_id(asker: Asker, slot: int, milliseconds: int, random: Any) -> None:
    order_id = uuid7(SINCE + milliseconds * MILLISECOND, slot)
    assert_routed(asker, order_id, random)


@OVER_HTTP
@given(st.uuids(), st.randoms(use_true_random=False))
def test_any_uuid_is_routed_as_the_services_read_it(asker: Asker, order_id: UUID, random: Any) -> None:
    assert_routed(asker, order_id, random)


def assert_routed(asker: Asker, order_id: UUID, random: Any) -> None:
    text = str(order_id).upper() if random and random.random() < 0.5 else str(order_id)
    spelt = escaped(text, lambda _, byte: byte if random is None or random.random() < 0.9 else b"%%%02x" % byte[0])
    for method, suffix in (("GET", b""), ("GET", b"/timeline"), ("POST", b"/payment"), ("POST", b"/cancel?x=1")):
        reply = asker.ask(method, b"/v1/orders/" + spelt + suffix, TOKEN, b"X-Slot: 7")
        older = order_id.int >> 80 < NOTHING.since_milliseconds
        assert reply.slot == reply.read == (OLDER if older else order_id.int >> 64 & 0xFFF)


DEEP = json.loads("[" * 30 + "]" * 30)  # deeper than HAProxy's own converter reads
NAMES = st.sampled_from(["iss", "aud", "exp", "nbf", "sub", "name", "nested", 'a"b', "s\\u0075b", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["sub", '"sub":"x"', "}", "]", "\\", '\\"', "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@OVER_HTTP
@given(
    SUBJECTS,
    st.dictionaries(st.sampled_from(["name", "sub2", "", "é", "\\"]), VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["last", "su", "subs"]), VALUES, max_size=2),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from(["sub", r"s\u0075b", r"\u0073\u0075\u0062"]),
)
@example("김민수 \U0001f600", {}, {}, True, None, "sub")
@example("bob", {"name": {"a": 1, "sub": "x"}, "": ["sub", "x"]}, {}, True, None, "sub")
@example("é", {"name": {"a": 1, "sub": "x"}, "": ["sub", "x"]}, {}, True, None, "sub")
@example("bob", {"name": DEEP}, {}, True, None, "sub")
@example('"\\/', {"name": "sub"}, {"last": {"sub": "x"}}, False, 1, "sub")
def test_caller_is_routed_by_the_subject_of_the_token(
    asker: Asker,
    subject: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    ascii_only: bool,
    indent: int | None,
    name: str,
) -> None:
    given = {**before, **claims(sub="-", scope=""), **after}
    text = json.dumps(given, ensure_ascii=ascii_only, indent=indent)
    text = text.replace('"sub": "-"', f'"{name}": {json.dumps(subject, ensure_ascii=ascii_only)}')
    header = bearer(text.encode())
    for method, target, body in (
        *(("GET", "/v1/orders", None), ("POST", "/v1/orders", {"lines": LINES}), ("GET", "/v1/coupons", None)),
        *(("GET", "/v1/coupons/C1", None), ("GET", "/v1/accounts/me", None), ("GET", "/v1/accounts/me/entries", None)),
    ):
        reply = asker.ask(method, target, header, body=body)
        assert reply.slot == reply.read == slot_of(subject)


@OVER_HTTP
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b'{"sub":"\\u00')
@example(b'{"sub":"\\ud800"}')
@example(b'{"sub":{"sub":"x"}}')
@example(b'{"sub":1}')
@example(b"[[[[")
def test_what_is_no_token_is_routed_anywhere_and_refused(asker: Asker, payload: bytes) -> None:
    assert asker.ask("GET", "/v1/orders", bearer(payload)).status == 401


@pytest.mark.parametrize("header", [b"", b"Authorization: Bearer", b"Authorization: Basic YQ=="])
def test_who_has_no_token_is_refused(asker: Asker, header: bytes) -> None:
    reply = asker.ask("GET", "/v1/orders", *([header] if header else []))
    assert (reply.slot, reply.cell, reply.status) == (0, "cell-0", 401)


@OVER_HTTP
@given(st.integers(0, SLOTS - 1), TEXTS)
def test_back_office_names_the_slot_of_the_user_for_whom_it_acts(asker: Asker, slot: int, user_id: str) -> None:
    for target, body in (
        ("/v1/orders", {"user_id": user_id, "lines": LINES}),
        ("/v1/coupons", {"user_id": user_id, "kind": "fixed", "value": 1}),
    ):
        reply = asker.ask("POST", target, TOKEN, b"X-Slot: %d" % slot, body=body)
        # Whatever the header says, the services read the body.
        assert (reply.slot, reply.read) == (slot, slot_of(user_id))
        again = asker.ask("POST", target, TOKEN, b"X-Slot: %d" % reply.read, body=body)
        assert again.slot == again.read


@pytest.mark.parametrize("hint", [b"", b"-1", b"1.0", b"0x1", b"4096", b"9999", b"12345", b"a", b"1, 2", b"4095 "])
def test_header_that_is_no_slot_chooses_none(asker: Asker, hint: bytes) -> None:
    reply = asker.ask("GET", "/v1/orders", TOKEN, b"X-Slot: " + hint)
    assert reply.slot == (4095 if hint == b"4095 " else slot_of("olga"))


@pytest.mark.parametrize(("slot", "cell"), [(0, "cell-0"), (2047, "cell-0"), (2048, "cell-1"), (4095, "cell-1")])
def test_map_says_which_cell_owns_a_slot(asker: Asker, slot: int, cell: str) -> None:
    assert asker.ask("GET", "/v1/orders", TOKEN, b"X-Slot: %d" % slot).cell == cell


def test_order_without_a_slot_is_in_cell_0(asker: Asker) -> None:
    reply = asker.ask("GET", f"/v1/orders/{uuid7(SINCE - MILLISECOND, 4095)}", TOKEN)
    assert (reply.slot, reply.cell) == (OLDER, "cell-0")


@pytest.mark.parametrize("target", NOWHERE)
def test_path_that_no_service_has_gets_the_problem_of_the_services(running: Router, target: str) -> None:
    with closing(Asker(running.url)) as asker:
        reply = asker.ask("GET", target, TOKEN)
    title = problems.title(problems.NotFound)
    assert reply == Reply(NONE, "", 404, json.loads(problems.encode(404, "not-found", title, f"{title}.", "/")))


def test_slot_that_the_map_lacks_gets_the_problem_of_an_unavailable_service(running: Router) -> None:
    text = (running.folder / "cells.map").read_text()
    running.replace_map(text.replace("0:2047 ", "0:1698 "))
    try:
        wait_until(partial(leads_to, running.url, ""), START_SECONDS, "the other map")
        with closing(Asker(running.url)) as asker:
            reply = asker.ask("GET", "/v1/orders", TOKEN)
    finally:
        running.replace_map(text)
        wait_until(partial(leads_to, running.url, "cell-0"), START_SECONDS, "the first map")
    problem = problems.encode(503, "unavailable", problems.UNAVAILABLE, "The service did not answer.", "/")
    assert reply == Reply(NONE, "", 503, json.loads(problem))


def test_no_request_fails_while_another_map_is_read(running: Router) -> None:
    """Clients keep their connections and send one request after another meanwhile."""
    text = (running.folder / "cells.map").read_text()
    moved = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as clients:
        done = [clients.submit(ask_until, running.url, moved) for _ in range(CLIENTS)]
        try:
            for owner in ("cell-1", "cell-0", "cell-1"):
                running.replace_map(f"1699 {owner}\n{text}")
                wait_until(partial(leads_to, running.url, owner), START_SECONDS, "the other map")
        finally:
            moved.set()
        asked = [future.result() for future in done]
    running.replace_map(text)
    wait_until(partial(leads_to, running.url, "cell-0"), START_SECONDS, "the first map")
    assert {status for seen in asked for status, _ in seen} == {421}
    assert all({cell for _, cell in seen} == {"cell-0", "cell-1"} for seen in asked)


def test_idle_connection_is_kept_until_its_next_answer_at_a_reload(running: Router) -> None:
    text = (running.folder / "cells.map").read_text()
    with closing(Asker(running.url)) as idle, closing(Asker(running.url)) as witness:
        for asker in (idle, witness):
            assert asker.ask("GET", "/v1/orders", TOKEN).cell == "cell-0"
        running.replace_map(f"1699 cell-1\n{text}")
        while witness.is_open:  # until the old process closes connections
            assert witness.ask("GET", "/v1/orders", TOKEN).cell == "cell-0"
        assert not idle.has_ended(within_seconds=ENDED_SECONDS)
        assert idle.ask("GET", "/v1/orders", TOKEN).cell == "cell-0"
        assert not idle.is_open
    running.replace_map(text)
    wait_until(partial(leads_to, running.url, "cell-0"), START_SECONDS, "the first map")


def leads_to(url: str, owner: str) -> bool:
    with closing(Asker(url)) as asker:
        return asker.ask("GET", "/v1/orders", TOKEN).cell == owner


def ask_until(url: str, stop: threading.Event) -> list[tuple[int, str]]:
    """Ask until `stop` is set, on a connection that is kept; return statuses and cells."""
    seen: list[tuple[int, str]] = []
    with closing(Asker(url)) as asker:
        while not stop.is_set():
            reply = asker.ask("GET", "/v1/orders", TOKEN)
            seen.append((reply.status, reply.cell))
    return seen
