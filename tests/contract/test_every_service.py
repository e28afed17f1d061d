"""What all five services share: health, metrics, documents, errors, limits, and ids of requests and traces."""

import re
from collections.abc import Mapping

import aiohttp
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.contract.checking import Document
from tests.infrastructure.raw_http import connected, read_answer
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order
from tests.infrastructure.stack import SERVICES, Shop, Stack
from tests.infrastructure.waiting import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
CALLS = {
    "order": {
        ("post", "/v1/orders"),
        ("get", "/v1/orders"),
        ("get", "/v1/orders/{order_id}"),
        ("post", "/v1/orders/{order_id}/payment"),
        ("post", "/v1/orders/{order_id}/cancel"),
        ("get", "/v1/orders/{order_id}/timeline"),
    },
    "product": {
        ("post", "/v1/products"),
        ("get", "/v1/products"),
        ("get", "/v1/products/{product_id}"),
        ("patch", "/v1/products/{product_id}"),
        ("post", "/v1/products/{product_id}/stock"),
    },
    "coupon": {("post", "/v1/coupons"), ("get", "/v1/coupons"), ("get", "/v1/coupons/{coupon_id}")},
    "balance": {
        ("post", "/v1/accounts/{user_id}/charges"),
        ("get", "/v1/accounts/{user_id}"),
        ("get", "/v1/accounts/{user_id}/entries"),
    },
    "relay": set[tuple[str, str]](),
}
# The slugs that the contract lists for each status of a call.
REFUSALS = {
    ("order", "post", "/v1/orders", "400"): {"out-of-stock", "invalid-coupon", "insufficient-balance"},
    ("order", "post", "/v1/orders", "404"): {"product-not-found"},
    ("order", "post", "/v1/orders", "409"): {"idempotency-in-progress"},
    ("order", "post", "/v1/orders", "422"): {"idempotency-key-reused", "validation-failed"},
    ("order", "post", "/v1/orders/{order_id}/payment", "400"): {"insufficient-balance"},
    ("order", "post", "/v1/orders/{order_id}/payment", "409"): {"order-expired", "order-not-payable"},
    ("order", "post", "/v1/orders/{order_id}/cancel", "409"): {"order-not-cancellable"},
    ("product", "post", "/v1/products", "409"): {"product-exists"},
    ("product", "post", "/v1/products/{product_id}/stock", "400"): {"out-of-stock"},
    ("coupon", "post", "/v1/coupons", "409"): {"coupon-exists"},
    ("balance", "get", "/v1/accounts/{user_id}", "404"): {"account-not-found"},
}


async def fetch(stack: Stack, service: str, path: str) -> tuple[int, str, str]:
    """Return the status, content type and text of a page that is not JSON."""
    async with aiohttp.ClientSession() as session, session.get(stack.url(service) + path) as response:
        return response.status, response.headers["Content-Type"], await response.text()


@pytest.mark.parametrize("service", SERVICES)
async def test_serving_service_is_alive_and_ready_and_lists_its_checks(shop: Shop, service: str) -> None:
    client = getattr(shop, service)
    assert await client.get("/livez") == {"status": "alive"}
    ready = await client.get("/readyz")
    assert ready["status"] == "ready"
    assert ready["checks"]["database"] == "ok"
    assert set(ready["checks"].values()) == {"ok"}


@pytest.mark.parametrize("service", SERVICES)
async def test_metrics_are_prometheus_text(stack: Stack, service: str) -> None:
    await fetch(stack, service, "/livez")
    status, content_type, text = await fetch(stack, service, "/metrics")
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    assert re.search(r'^http_responses_total\{method="GET",route="/livez",status="200"\} [1-9]', text, re.M)


@pytest.mark.parametrize("service", SERVICES)
async def test_metrics_are_those_that_are_asked_for(stack: Stack, service: str) -> None:
    await fetch(stack, service, "/livez")
    asked = "name[]=http_server_request_duration_seconds_count&name[]=build_info&name[]=no_metric"
    _, _, text = await fetch(stack, service, f"/metrics?{asked}")
    found = {re.split("[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}
    assert found == {"http_server_request_duration_seconds_count", "build_info"}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_client_can_not_make_metrics_of_its_own(stack: Stack, shop: Shop, service: str) -> None:
    client = getattr(shop, service)
    for number in range(20):
        await client.call("GET", f"/nowhere-{number}")
        await client.call(f"METHOD{number}", "/nowhere")
    _, _, text = await fetch(stack, service, "/metrics")
    assert "nowhere" not in text
    assert "METHOD" not in text


@pytest.mark.parametrize("service", SERVICES)
async def test_the_document_is_valid_and_the_docs_load_what_shows_it(
    stack: Stack, documents: Mapping[str, Document], service: str
) -> None:
    document = documents[service]
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(dict(document)).validate()
    status, content_type, page = await fetch(stack, service, "/docs")
    assert (status, content_type.split(";")[0]) == (200, "text/html")
    for path in re.findall(r'(?:src|rel="stylesheet" href)="([^"]+)"', page):
        status, content_type, _ = await fetch(stack, service, path)
        assert (status, content_type.split(";")[0] in ("text/javascript", "text/css")) == (200, True), path
    assert '"/openapi.json"' in page


@pytest.mark.parametrize("service", SERVICES)
async def test_settings_in_effect_are_shown_without_secrets(shop: Shop, stack: Stack, service: str) -> None:
    shown = await getattr(shop, service).get("/internal/v1/settings")
    items = {item["variable"]: item for item in shown["items"]}
    port = stack.url(service).rpartition(":")[2]
    assert items[f"{service.upper()}_PORT"]["value"] == port
    assert items["AUTH_MODE"] == {"variable": "AUTH_MODE", "value": "open", "default": None, "differs": True}
    assert f"{service.upper()}_DATABASE_URL" in shown["hidden"]
    assert "postgresql://" not in str(shown)


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_has_every_call_of_the_contract(documents: Mapping[str, Document], service: str) -> None:
    paths = documents[service]["paths"]
    assert {(method, path) for path in paths for method in paths[path]} >= CALLS[service]


def test_the_documents_name_the_refusals_of_the_contract(documents: Mapping[str, Document]) -> None:
    for (service, method, path, status), slugs in REFUSALS.items():
        responses = documents[service]["paths"][path][method]["responses"]
        assert slugs <= set(re.findall(r"`([a-z-]+)`", responses[status]["description"])), (service, method, path)


@pytest.mark.parametrize("service", SERVICES)
async def test_an_unknown_path_and_a_wrong_method_are_problems(shop: Shop, service: str) -> None:
    client = getattr(shop, service)
    nowhere = await client.call("GET", "/v2/nowhere")
    assert (nowhere.status, nowhere.problem, nowhere.body["instance"]) == (404, "not-found", "/v2/nowhere")
    wrong = await client.call("DELETE", "/readyz")
    assert (wrong.status, wrong.problem) == (405, "method-not-allowed")
    assert "GET" in wrong.headers["Allow"]


async def test_wrong_method_gets_the_allowed_methods(shop: Shop) -> None:
    answer = await shop.order.call("PUT", "/v1/orders")
    assert (answer.status, set(answer.headers["Allow"].split(","))) == (405, {"GET", "HEAD", "POST"})


@pytest.mark.parametrize("service", SERVICES)
async def test_head_is_answered_as_get_without_its_body(
    stack: Stack, documents: Mapping[str, Document], service: str
) -> None:
    paths = [
        re.sub(r"\{\w+\}", "nobody", path) for path, calls in documents[service]["paths"].items() if "get" in calls
    ]
    fixed = ("/livez", "/openapi.json", "/docs", "/problems")
    for path in [*paths, "/readyz", *fixed]:
        answers = []
        for method in (b"GET", b"HEAD", b"GET"):
            async with connected(stack.url(service)) as (reader, writer):
                writer.write(method + b" " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                writer.write_eof()
                answers.append(await read_answer(reader, to_head=method == b"HEAD"))
                assert await reader.read(-1) == b""
        whole, head, again = answers
        assert head.status == whole.status != 405, path
        assert head.headers["content-type"] == whole.headers["content-type"], path
        assert whole.headers["content-length"] == str(len(whole.body)), path
        if path in fixed or whole.body == again.body:  # some tell what changes between two calls, such as a lag
            assert head.headers["content-length"] == whole.headers["content-length"], path


@pytest.mark.parametrize("service", SERVICES)
async def test_ids_of_a_request_are_used_and_returned_even_with_a_problem(shop: Shop, service: str) -> None:
    headers = {"X-Request-Id": "request-7", "traceparent": TRACEPARENT}
    for path in ("/livez", "/nowhere"):
        answer = await getattr(shop, service).call("GET", path, headers=headers)
        assert answer.headers["X-Request-Id"] == "request-7"
        assert answer.headers["traceparent"].split("-")[1] == TRACE


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Request-Id": "x" * 129, "traceparent": "00-abc-def-01"},
        {"X-Request-Id": "white space", "traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
        {"X-Request-Id": "ключ", "traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"},
        {"X-Request-Id": "", "traceparent": TRACEPARENT.upper()},
    ],
)
async def test_ids_that_are_missing_or_malformed_are_made(shop: Shop, headers: dict[str, str]) -> None:
    answer = await shop.order.call("GET", "/livez", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", answer.headers["traceparent"])
    assert TRACE not in answer.headers["traceparent"]


@pytest.mark.parametrize("service", SERVICES)
def test_logs_are_lines_of_json_that_name_their_service(stack: Stack, service: str) -> None:
    lines = [line for line in stack.log(service).splitlines() if line]
    assert lines
    assert all(line.startswith("{") and f'"service":"{service}"' in line for line in lines)
    assert any('"event":"server.listening"' in line and '"port":' in line for line in lines)


@pytest.mark.parametrize("limit", [1000, 2**70])
async def test_a_limit_above_the_maximum_is_lowered(shop: Shop, limit: int) -> None:
    for _ in range(101):
        await a_coupon(shop, "collector")
    page = await shop.coupon.get("/v1/coupons", user_id="collector", limit=limit)
    assert len(page["items"]) == 100
    assert page["next_cursor"] is not None


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("order", "/v1/orders"),
        ("product", "/v1/products"),
        ("coupon", "/v1/coupons"),
        ("balance", "/v1/accounts/a/entries"),
    ],
)
@pytest.mark.parametrize("query", ["limit=0", "limit=-5", "limit=ten", "cursor=nonsense", "unknown=1"])
async def test_impossible_page_is_refused(shop: Shop, service: str, path: str, query: str) -> None:
    answer = await getattr(shop, service).call("GET", f"{path}?{query}")
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert answer.body["errors"][0]["pointer"].startswith("/query/")


async def test_a_trace_is_passed_on_to_the_participants(stack: Stack, shop: Shop) -> None:
    user, product = await a_user(shop), await a_product(shop)
    trace_id = "5" * 32
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    answer = await shop.order.call("POST", "/v1/orders", an_order(user, product), headers=headers)
    assert answer.status == 201
    wait_until(lambda: trace_id in stack.log("balance"), 10, "the trace in the balance service's log")
