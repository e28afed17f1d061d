from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from deploy.local.configuration import ROOT, SERVICES
from tests.infrastructure.missing import cannot_run, find_program
from tests.infrastructure.waiting import free_ports
from tests.integration.deploy_local.local_run import LocalRun

LOAD_MILLISECONDS = 15_000  # for whatever a test waits for; the first page of a busy machine took 4 s
SIZE = {"width": 1280, "height": 1000}
JWT_PORTS = ["ISSUER_PORT", *(f"{service.upper()}_INTERNAL_PORT" for service in SERVICES)]
EXPIRE_SOON = {"ORDER_PAYMENT_TIMEOUT_SECONDS": "4", "ORDER_EXPIRY_INTERVAL_SECONDS": "0.5"}
OURS = ("127.0.0.1", "localhost")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """The platform as `make run` starts it, in open mode with demo data."""
    with running(tmp_path_factory.mktemp("run")) as run:
        yield run


@pytest.fixture(scope="session")
def run_jwt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """The same, but it asks callers for tokens, and orders expire soon: for tests that are marked `long`."""
    settings = dict(zip(JWT_PORTS, map(str, free_ports(len(JWT_PORTS))), strict=True)) | EXPIRE_SOON
    with running(tmp_path_factory.mktemp("run"), AUTH="jwt", **settings) as run:
        yield run


@pytest.fixture
def own_run(tmp_path: Path) -> Iterator[LocalRun]:
    """A platform for one test, which may end it: for tests that are marked `long`."""
    with running(tmp_path) as run:
        yield run


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[LocalRun]:
    """Start the platform, and check at the end that it stops."""
    python = ROOT / ".venv-dev" / "bin" / "python"
    run = LocalRun(folder / "local", settings, program=("deploy.local",), python=str(python))
    try:
        yield run.start()
        assert run.end() == 0, run.output()
    finally:
        run.clean_up()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. As root it has no sandbox, which is no loss: it sees nothing but this platform."""
    program = find_program("chromium")
    if program is None:
        cannot_run("Chromium is not installed (Debian's package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def errors() -> list[str]:
    """What the page has done wrong; a test takes out what it causes itself."""
    return []


@pytest.fixture
def page(chromium: Browser, errors: list[str]) -> Iterator[Page]:
    """A tab of a new profile. The test fails if errors are left at its end."""

    def wrote(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            errors.append(f"{message.type}: {message.text}")

    def asked(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.hostname not in OURS:
            errors.append(f"a request to another host: {request.url}")

    context = chromium.new_context(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
    context.set_default_timeout(LOAD_MILLISECONDS)
    expect.set_options(timeout=LOAD_MILLISECONDS)
    context.on("console", wrote)
    context.on("weberror", lambda error: errors.append(f"thrown: {error.error}"))
    context.on("request", asked)
    yield context.new_page()
    context.close()
    assert errors == []
