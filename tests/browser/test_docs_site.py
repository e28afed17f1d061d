"""The site of the documents in a browser: its search, its pictures, no barrier, and nothing from another host."""

import functools
import http.server
import re
import subprocess
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from deploy.local.configuration import ROOT
from tests.browser.checks import check_looks
from tests.infrastructure.missing import cannot_run

PYTHON = ROOT / ".venv-docs" / "bin" / "python"
BUILD_SECONDS = 100
# Of each kind one: tables, diagrams, code in lists, what is written from the code, Korean with a picture.
PAGES = [
    pytest.param(name, marks=[] if name == "failover.html" else pytest.mark.long)
    for name in ("index.html", "architecture.html", "failover.html", "reference/settings.html", "ko/index.html")
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing about it."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, as `make docs SERVE=1` serves it."""
    if not PYTHON.exists():
        cannot_run("the generator is not installed: make environment-docs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    subprocess.run([PYTHON, "-m", "docs.site", folder], cwd=ROOT, check=True, timeout=BUILD_SECONDS)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", PAGES)
def test_page_has_no_barrier(site: str, page: Page, path: str) -> None:
    page.goto(f"{site}/{path}")
    expect(page.locator("h1")).to_be_visible()
    check_looks(page)


def test_every_diagram_is_drawn(site: str, page: Page) -> None:
    page.goto(f"{site}/architecture.html")
    source = (ROOT / "docs" / "architecture.md").read_text()
    expect(page.locator("div.mermaid")).to_have_count(source.count("```mermaid\n"))
    expect(page.locator("pre.mermaid")).to_have_count(0)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("RETENTION_DAYS", "settings"),
        pytest.param("out-of-stock", "problem-types", marks=pytest.mark.long),
        pytest.param("컨슈머 만들기", "ko/tutorial", marks=pytest.mark.long),
    ],
)
def test_search_finds_the_page_of_a_word(site: str, page: Page, words: str, path: str) -> None:
    page.goto(f"{site}/index.html")
    page.get_by_role("button", name="Search").first.click()
    page.keyboard.type(words)
    expect(page.locator(f'a[href*="{path}"]').locator("visible=true").first).to_be_visible()


def test_picture_follows_the_colours_of_the_site(site: str, page: Page) -> None:
    page.goto(f"{site}/platform.html")
    picture = page.locator("img[alt^='The playground']")
    expect(picture.locator("visible=true")).to_have_attribute("src", re.compile("light"))
    page.emulate_media(color_scheme="dark")
    expect(picture.locator("visible=true")).to_have_attribute("src", re.compile("dark"))
