"""A listener has the paths, and the files for TLS, that are for those who connect to it."""

import pytest
from aiohttp import web

from shared.http.routes import Route
from shared.http.server import HttpServer
from shared.identity.authenticator import OpenAuthenticator
from shared.identity.callers import INTERNAL, PUBLIC, SIGNED_IN, Policy
from shared.process.settings import ServiceSettings
from shared.tls import TlsFiles

SETTINGS = ServiceSettings(port=1, database_url="postgresql://nowhere")
PROBES = {"/livez", "/readyz", "/metrics"}


@pytest.mark.parametrize(
    ("audience", "left_out"), [("all", set()), ("clients", PROBES), ("operators", set()), ("services", {"/docs"})]
)
def test_listener_has_probes_but_for_clients_and_the_docs_page_but_for_services(
    audience: str, left_out: set[str]
) -> None:
    server = HttpServer("x", "x", SETTINGS, OpenAuthenticator(), [], {}, audience=audience)  # type: ignore[arg-type]
    paths = {resource.canonical for resource in server._app.router.resources()}
    some = PROBES | {"/openapi.json", "/problems", "/docs"}
    assert paths & some == some - left_out


@pytest.mark.parametrize(("policy", "internal"), [(PUBLIC, False), (SIGNED_IN, False), (INTERNAL, True)])
def test_listener_has_the_files_of_internal_ones_if_a_service_calls_it(policy: Policy, *, internal: bool) -> None:
    asked = []

    class Settings(ServiceSettings):
        def tls_files(self, *, internal: bool) -> TlsFiles:
            asked.append(internal)
            return super().tls_files(internal=internal)

    async def handler(_request: web.Request) -> web.Response:
        raise AssertionError

    route = Route("GET", "/v1/things", policy, handler, "List things", {200: None})
    HttpServer("x", "x", Settings(**SETTINGS.model_dump()), OpenAuthenticator(), [route], {})
    assert asked == [internal]
