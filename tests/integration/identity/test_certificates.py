"""The services identify each other by certificates: a checkout over TLS, and who else may call /internal."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from services.order.admin import __main__ as admin
from services.order.admin import audit_api
from services.order.settings import Settings as OrderSettings
from shared import tls
from shared.ids import uuid7
from shared.postgres.connections import Pool
from shared.tls import TlsFiles
from tests.infrastructure.authority import Authority
from tests.infrastructure.databases import Database
from tests.infrastructure.issuer import RSA, RULES, jwk_set
from tests.infrastructure.services import Client, migrate_service, serving
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.identity.conftest import Token

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARTICIPANTS = ("product", "coupon", "balance")
HEAL_SECONDS = 10
HOLDS = "/internal/v1/holds?order_id=00000000-0000-7000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Platform:
    """The services in jwt mode with TLS and without secrets."""

    urls: Mapping[str, str]
    authority: Authority
    folder: Path
    token: Token
    order_settings: OrderSettings

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        body: Any = None,
        own: tuple[str, str] | None = None,
        scope: str = "",
    ) -> tuple[int, Any]:
        """Send a request as alice, with a client certificate if one is given; return the status and the body."""
        certificate, key = own or (None, None)
        context = tls.client(TlsFiles(certificate, key, str(self.authority.file)))()
        headers = {} if path.startswith("/internal") else {"Authorization": f"Bearer {self.token('alice', scope)}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            call = session.request(method, self.urls[service] + path, json=body, ssl=context)
            async with call as answer:
                return answer.status, await answer.json(content_type=None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(
    database: Database, token: Token, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Platform]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        certificate, key = authority.issue("server")
        auth: dict[str, Any] = {
            "auth_mode": "jwt",
            "auth_issuer": RULES.issuer,
            "auth_audience": RULES.audience,
            "auth_jwks": await issuer(stack, certificate, key),
            "auth_ca_file": str(authority.file),
            "tls_certificate_file": certificate,
            "tls_key_file": key,
        }
        urls, others = {}, {}
        for name in PARTICIPANTS:
            auth["internal_port"] = free_port()
            client: Client = await enter(
                serving(name, migrate_service(name, database), **auth, internal_client_ca_file=str(authority.file))
            )
            urls[name] = client.url.replace("http:", "https:")
            urls[f"{name} internal"] = others[f"{name}_url"] = f"https://127.0.0.1:{auth['internal_port']}"
        auth["internal_port"], admin_port = free_port(), free_port()
        own, own_key = authority.issue("order", ["order"])
        auth |= {"participants_certificate_file": own, "participants_key_file": own_key}
        auth |= {"participants_ca_file": str(authority.file), **others}
        url = migrate_service("order", database)
        client = await enter(serving("order", url, **auth, admin_port=admin_port, request_deadline_seconds=1))
        urls["order"] = client.url.replace("http:", "https:")
        urls["order internal"] = f"https://127.0.0.1:{auth['internal_port']}"
        urls["order admin"] = f"https://127.0.0.1:{admin_port}"
        yield Platform(urls, authority, folder, token, OrderSettings(database_url=url, **auth))


async def issuer(stack: AsyncExitStack, certificate: str, key: str) -> str:
    """Serve an issuer's keys over TLS until the stack is closed; return their URL."""

    async def keys(_: web.Request) -> web.Response:
        return web.Response(body=jwk_set(RSA))

    app, port = web.Application(), free_port()
    app.router.add_get("/jwks", keys)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls.server(TlsFiles(certificate, key))).start()
    return f"https://127.0.0.1:{port}/jwks"


async def check_out(platform: Platform, product_id: str) -> str:
    """Place and pay an order; return its status."""
    body = {"product_id": product_id, "name": "Cup", "price": 100, "stock": 5}
    assert (await platform.call("product", "POST", "/v1/products", body, scope="catalog:write"))[0] == 201
    body = {"amount": 1000}
    path = "/v1/accounts/alice/charges"
    assert (await platform.call("balance", "POST", path, body, scope="accounts:charge"))[0] == 201
    body = {"lines": [{"product_id": product_id, "quantity": 1}]}
    _, order = await platform.call("order", "POST", "/v1/orders", body)
    return str(order["status"])


async def test_checkout_and_audit_work_with_certificates_instead_of_secrets(platform: Platform) -> None:
    assert await check_out(platform, "cup") == "PAID"
    async with Pool(platform.order_settings, "test") as pool:
        assert (await audit_api.audit_now(platform.order_settings, pool)).view()["clean"]
    assert (await platform.call("order admin", "GET", "/admin/v1/sagas", scope="ops:read"))[0] == 200


@pytest.mark.parametrize("service", [*PARTICIPANTS, "order"])
async def test_probes_and_metrics_need_no_certificate(platform: Platform, service: str) -> None:
    assert (await platform.call(f"{service} internal", "GET", "/readyz"))[0] == 200
    async with aiohttp.ClientSession() as session:
        context = tls.client(TlsFiles(authorities=str(platform.authority.file)))()
        async with session.get(f"{platform.urls[f'{service} internal']}/metrics", ssl=context) as answer:
            text = await answer.text()
    assert f'tls_certificate_valid_seconds{{file="{platform.folder}/server.pem"}} ' in text


@pytest.mark.parametrize("service", PARTICIPANTS)
async def test_only_named_callers_reach_internal_calls(platform: Platform, service: str) -> None:
    def issued(*names: str, subject: str = "x") -> tuple[str, str]:
        return platform.authority.issue("caller", names, subject=subject)

    async def status(own: tuple[str, str] | None) -> int:
        return (await platform.call(f"{service} internal", "GET", HOLDS, own=own))[0]

    assert await status(None) == 401
    assert await status(issued("order")) == 200
    assert await status(issued("audit")) == 200
    assert await status(issued(subject="order")) == 200  # without alternative names
    assert await status(issued("other", "order")) == 200
    for names in (["product"], ["order.example.com"], ["xorder"], ["spiffe://shop/order"], ["127.0.0.1"]):
        assert await status(issued(*names, subject="stranger")) == 401
    assert await status(issued("product", subject="order")) == 401  # the alternative names decide


async def test_certificate_of_another_authority_ends_the_handshake(platform: Platform, tmp_path: Path) -> None:
    own = Authority(tmp_path, "stranger").issue("order", ["order"])
    with pytest.raises(aiohttp.ClientError):
        await platform.call("balance internal", "GET", HOLDS, own=own)


async def test_public_listener_serves_no_internal_calls(platform: Platform) -> None:
    own = platform.authority.issue("caller", ["order"])
    assert (await platform.call("balance", "GET", HOLDS, own=own))[0] == 404


async def test_order_service_uses_its_replaced_certificate(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0)
    platform.authority.issue("order", ["nobody"])
    _, order = await platform.call("order", "POST", "/v1/orders", {"lines": [{"product_id": "pen", "quantity": 1}]})
    assert order["status"] == "PLACING"  # the participants answer 401, so the outcome is not known
    platform.authority.issue("order", ["order"])

    async def ended() -> bool:
        path = f"/v1/orders/{order['order_id']}"
        return bool((await platform.call("order", "GET", path))[1]["status"] == "REJECTED")

    await eventually(ended, HEAL_SECONDS, "the order's end")


async def test_command_line_repairs_orphans_with_the_certificate(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    body: Any = {"product_id": "vase", "name": "Vase", "price": 100, "stock": 5}
    assert (await platform.call("product", "POST", "/v1/products", body, scope="catalog:write"))[0] == 201
    order_id = str(uuid7())
    hold = {"type": "hold_stock", "order_id": order_id, "lines": [{"product_id": "vase", "quantity": 1}]}
    own = platform.authority.issue("caller", ["order"])
    path = "/internal/v1/commands"
    assert (await platform.call("product internal", "POST", path, {"commands": [hold]}, own))[0] == 200
    monkeypatch.setattr("sys.argv", ["admin", "repair", "--by", "ann", "--reason", "test"])
    arguments = admin._parser().parse_args()
    settings = platform.order_settings.model_copy(update={"audit_grace_seconds": 0.1})

    async def repaired() -> bool:
        return order_id in [str(act["order_id"]) for act in await admin._run(arguments, settings)]

    await eventually(repaired, HEAL_SECONDS, "the repair")
    assert (await platform.call("product", "GET", "/v1/products/vase"))[1]["stock"] == 5
