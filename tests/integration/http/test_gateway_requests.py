"""What the gateway adds to a request, what it removes, and what it logs."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.infrastructure.gateway import CONFIGURATION, NO_LIMITS, SERVICES, RunningGateway, gateway, replaced
from tests.infrastructure.raw_http import connected, read_answer, send
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, wait_until
from tests.integration.http.messages import get, post
from tests.integration.http.upstream import WHOLE, upstream

API = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
LOG_SECONDS = 5
# Names that the gateway must not hand on.
NAMES = """
Forwarded Via X-Forwarded-For X-Forwarded-Host X-Forwarded-Port X-Forwarded-Proto X-Real-IP X-Client-IP True-Client-IP
CF-Connecting-IP X-Client-Cert Client-Cert X-Forwarded-Client-Cert X-SSL-Client-Cert X-SSL-Client-Verify
Remote-User X-Remote-User X-User X-User-Id X-User-Name X-User-Email X-User-Roles X-Subject X-Scope X-Tenant-Id
X-Authenticated-User X-Authenticated-Userid X-Authenticated-Scope X-Auth-User X-Auth-Request-User X-Auth-Request-Email
X-Forwarded-User X-Forwarded-Email X-Forwarded-Groups X-Forwarded-Preferred-Username X-Forwarded-Access-Token
X-Consumer-Id X-Consumer-Username X-Credential-Identifier X-Amzn-Oidc-Data X-Amzn-Oidc-Identity
X-Goog-Authenticated-User-Email X-Goog-Iap-Jwt-Assertion Cf-Access-Jwt-Assertion X-MS-Client-Principal
X-Original-URL X-Rewrite-URL X-HTTP-Method-Override X_User_Id X_Forwarded_For REMOTE_USER
"""


@pytest.fixture(scope="module")
def running(reaper: Reaper) -> Iterator[RunningGateway]:
    """Run the gateway before a service that answers with the request, and three services that are gone."""
    with upstream() as url:
        gone = f"http://127.0.0.1:{free_port()}"
        with gateway({name: url if name == "balance" else gone for name in SERVICES}, reaper) as running:
            yield running


async def received(running: RunningGateway, headers: bytes) -> list[tuple[str, str]]:
    """Return the headers that the service receives, with names in lower case."""
    answer = await send(running.url, get(WHOLE, headers))
    lines = answer.body.decode().split("\r\n")[1:-2]
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]


async def test_no_identity_of_the_client_s_choice_reaches_a_service(running: RunningGateway) -> None:
    names = [spelling for name in NAMES.split() for spelling in (name, name.lower(), name.upper())]
    for name in names:
        assert [pair for pair in await received(running, f"{name}: mallory\r\n".encode()) if "mallory" in pair] == []


async def test_headers_that_services_read_arrive_as_sent(running: RunningGateway) -> None:
    sent = {
        "authorization": "Bearer a.b.c",
        "idempotency-key": '"a"',
        "x-request-id": "a",
        "traceparent": "00-1-2-3",
        "content-type": "text/x",
        "content-encoding": "gzip",
        "accept": "a/b",
        "cookie": "a=b",
    }
    found = await received(running, "".join(f"{name}: {value}\r\n" for name, value in sent.items()).encode())
    assert sorted(found) == sorted([*sent.items(), ("host", "x")])


async def ids(url: str, data: bytes) -> list[str]:
    """Return all ids of the request in the answer's head."""
    async with connected(url) as (reader, writer):
        writer.write(data)
        async with asyncio.timeout(LOG_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    return re.findall(r"^X-Request-Id: (.*)\r$", head, re.M)


ANSWERED = {
    "by a service": WHOLE,
    "404": b"/nowhere",
    "400": b"/v1/orders/%2f",
    "503": b"/v1/orders",
}


@pytest.mark.parametrize("by", ANSWERED)
async def test_every_answer_has_one_request_id(running: RunningGateway, by: str) -> None:
    for known in ("a", "~" * 128, '{"x":1}'):
        data = get(ANSWERED[by], f"X-Request-Id: {known}\r\n".encode())
        assert await ids(running.url, data) == [known]
    for unknown in (b"", b"a b", b"a" * 129, "é".encode(), b"a\tb"):
        data = get(ANSWERED[by], b"X-Request-Id: " + unknown + b"\r\n")
        [made] = await ids(running.url, data)
        assert re.fullmatch("[0-9a-f]{32}", made)
    [made] = await ids(running.url, get(ANSWERED[by]))
    assert ("x-request-id", made) not in await received(running, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        get(b"/v1/orders", method=b"TRACE"),
        get(host=b""),
        get(b"/v1/orders", b"X: " + b"a" * 9000 + b"\r\n"),
        post(b"Content-Length: 70000\r\n", b"", path=b"/v1/orders"),
        get(b"/v1/orders", b"Expect: patience\r\n"),
    ],
)
async def test_request_that_nginx_refuses_gets_an_id_too(running: RunningGateway, data: bytes) -> None:
    assert len(await ids(running.url, data)) == 1


async def test_id_in_the_answer_is_the_one_that_the_service_received(running: RunningGateway) -> None:
    async with connected(running.url) as (reader, writer):
        writer.write(get(WHOLE))
        answer = await read_answer(reader)
    assert f"X-Request-Id: {answer.headers['x-request-id']}\r\n".encode() in answer.body


def log_lines(running: RunningGateway, seen: int, count: int) -> list[Mapping[str, Any]]:
    """Return the `count` lines of the access log that follow the `seen` first ones, once they are there."""

    def found() -> list[str]:
        return [line for line in running.log.splitlines() if line.startswith("{")][seen:]

    wait_until(lambda: len(found()) >= count, LOG_SECONDS, "lines of the access log")
    return [json.loads(line) for line in found()]


@pytest.mark.parametrize(("trusted", "network"), [("127.0.0.1", "192.0.2.0/24"), ("10.0.0.5", "127.0.0.0/24")])
async def test_only_a_trusted_balancer_says_who_the_client_is(
    reaper: Reaper, tmp_path: Path, trusted: str, network: str
) -> None:
    plain = (CONFIGURATION / "plain" / "listener.conf").read_text()
    behind = replaced(plain, "listen 8080", f"set_real_ip_from {trusted};\n  listen 8080 proxy_protocol")
    (tmp_path / "listener.conf").write_text(behind)
    with upstream() as url, gateway(dict.fromkeys(SERVICES, url), reaper, listeners=tmp_path) as running:
        await send(running.url, b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 8080\r\n" + get(WHOLE))
        assert [line["network"] for line in log_lines(running, 0, 1)] == [network]


CANARY = "canary7f3"
FIELDS = {"time", "request_id", "trace_id", "method", "route", "status", "seconds", "bytes", "network"} | {
    "upstream",
    "upstream_status",
    "upstream_seconds",
}


async def test_logs_contain_nothing_about_a_person(reaper: Reaper) -> None:
    """Also where nginx complains: about limits, services that are gone, and invalid requests."""
    wanted = b"Authorization: Bearer canary7f3.%s\r\nCookie: a=canary7f3\r\nIdempotency-Key: canary7f3\r\n"
    wanted += b"User-Agent: canary7f3\r\nReferer: http://canary7f3/\r\nX-User-Id: canary7f3\r\n"
    wanted = wanted.replace(b"%s", CANARY.encode() * 4)
    paths = [
        *(
            b"/v1/accounts/canary7f3",
            b"/v1/accounts/canary7f3/entries?cursor=canary7f3",
            b"/canary7f3",
            b"/v1/canary7f3",
        ),
        *(
            b"/v1/orders?user_id=canary7f3",
            b"/v1/orders/canary7f3%2f",
            b"/v1/orders/%canary7f3",
            b"/v1/orders/canary7f3/x",
        ),
        *(b"/v1/orders/canary7f3 x", b"http://canary7f3/v1/orders/canary7f3", b"/v1/products/close"),
    ]
    requests = [get(path, wanted, host=b"Host: canary7f3\r\n") for path in paths]
    requests += [post(wanted + b"Content-Length: 11\r\n", b'"canary7f3"', path=b"/v1/accounts/canary7f3/charges")]
    requests += [
        get(b"/v1/orders", wanted, host=b"Host: canary7f3 x\r\n"),
        b"canary7f3\r\n\r\n",
        b"\x16\x03canary7f3\r\n\r\n",
    ]
    limits = NO_LIMITS | {
        "limit_req zone=by_token burst=100 nodelay;": "limit_req zone=by_token burst=20 nodelay;",
        "zone=by_token:16m rate=50r/s;": "zone=by_token:16m rate=1r/s;",  # on a slow machine, too, the burst is used up
    }
    with upstream() as url:
        services = dict.fromkeys(SERVICES, url) | {"order": f"http://127.0.0.1:{free_port()}"}
        with gateway(services, reaper, limits) as running:
            answers = [await send(running.url, data) for data in requests * 4]
            assert {answer.status for answer in answers} >= {200, 400, 404, 429, 503}
            lines = log_lines(running, 0, len(answers))
            assert CANARY not in running.log
            assert "127.0.0.1 " not in running.log
            assert "127.0.0.1," not in running.log
    assert {frozenset(line) for line in lines} == {frozenset(FIELDS)}
    assert {line["network"] for line in lines} == {"127.0.0.0/24"}


async def test_log_names_the_route_of_every_documented_call(running: RunningGateway) -> None:
    calls = {re.sub(r"\{\w+\}", "{id}", path) for path in re.findall(r"`(?:GET|POST|PATCH) (/v1/[^?`]+)", API)}
    calls = {path for path in calls if path.split("/")[2] in ("orders", "products", "coupons", "accounts")}
    assert len(calls) >= 13
    for path in [*calls, "/v1/orders/{id}/nothing", "/v1", "/"]:
        seen = len([line for line in running.log.splitlines() if line.startswith("{")])
        for query in ("", "?a=/v1/orders"):
            await send(running.url, get((path.replace("{id}", "x") + query).encode()))
        routes = {line["route"] for line in log_lines(running, seen, 2)}
        assert routes == {path if path in calls else "unknown"}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("2001:db8:1::6", "2001:db8:1::/48"),
        ("2001:db8::6", "2001:db8::/48"),
        ("fe80::1:2:3", ""),
        ("::1", ""),
    ],
)
async def test_log_has_only_the_network_of_an_address(running: RunningGateway, address: str, network: str) -> None:
    seen = len([line for line in running.log.splitlines() if line.startswith("{")])
    answer = await running.send_from(address, get(b"/nowhere"))
    assert answer.status == 404
    [line] = log_lines(running, seen, 1)
    assert line["network"] == network
    assert address not in json.dumps(line)
