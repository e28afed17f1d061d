"""With compose.tracing.yaml, a service exports its spans to the collector, which is in a network with it."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.containers.engine import COMPOSE_FILE, PROJECT, Platform, run
from tests.infrastructure.otlp import ExportedSpan, spans_of
from tests.infrastructure.waiting import wait_until

TRACING_FILE = COMPOSE_FILE.with_name("compose.tracing.yaml")
TRACED, COLLECTOR = f"{PROJECT}-traced", f"{PROJECT}-collector"
TRACING = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_BSP_SCHEDULE_DELAY": "200"}
READY_SECONDS, EXPORTED_SECONDS = 60, 30
# Prints each export that it receives.
RECEIVER = """
import base64, http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(base64.b64encode(self.rfile.read(int(self.headers["Content-Length"]))).decode())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

http.server.HTTPServer(("", 4318), Handler).serve_forever()
"""
READY = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8102/readyz')"
# Reads the products, with the token in its argument.
CALL = """
import sys, urllib.request
headers = {"Authorization": f"Bearer {sys.argv[1]}"}
urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8002/v1/products", headers=headers))
"""


@pytest.fixture
def traced(images: Mapping[str, str], platform: Platform) -> Iterator[Platform]:
    """A further replica of the product service, which is traced and which the gateway does not know; and a receiver."""
    tracing = replace(platform, environment={**platform.environment, **TRACING}, files=(COMPOSE_FILE, TRACING_FILE))
    try:
        tracing.compose("run", "--detach", "--no-deps", "--name", TRACED, "product")
        network = ["--network", f"{PROJECT}_product-traces", "--network-alias", "collector"]
        receiver = ["docker", "run", "--detach", "--name", COLLECTOR, *network, images["product"]]
        run([*receiver, "python", "-u", "-c", RECEIVER])
        yield tracing
    finally:
        run(["docker", "rm", "--force", TRACED, COLLECTOR])
        added = ["docker", "network", "ls", "--quiet", f"--filter=name={PROJECT}_.*-traces"]
        run(["docker", "network", "rm", *run(added).split()])


def exported() -> list[ExportedSpan]:
    """Return the spans that the receiver has."""
    bodies = [base64.b64decode(line) for line in run(["docker", "logs", COLLECTOR]).split()]
    return [span for body in bodies for span in spans_of(ExportTraceServiceRequest.FromString(body))]


def test_a_service_exports_its_spans_to_the_collector(traced: Platform) -> None:
    def ready() -> bool:
        try:
            run(["docker", "exec", TRACED, "python", "-c", READY])
        except AssertionError:
            return False
        return True

    wait_until(ready, READY_SECONDS, "the traced replica")
    run(["docker", "exec", TRACED, "python", "-c", CALL, traced.token("alice")])

    def names() -> set[tuple[str, str]]:
        return {(span.service, span.name) for span in exported()}

    wait_until(lambda: ("product", "GET /v1/products") in names(), EXPORTED_SECONDS, "the span of a request")
