"""A listener has the paths that are for those who connect to it."""

import pytest

from shared.http.server import HttpServer
from shared.identity.authenticator import OpenAuthenticator
from shared.process.settings import ServiceSettings

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
