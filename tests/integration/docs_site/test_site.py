"""The site of the documents is built without a fault, and needs nothing of another host: `make docs`."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.infrastructure.missing import cannot_run
from tests.infrastructure.stack import REPOSITORY

PYTHON = REPOSITORY / ".venv-docs" / "bin" / "python"
BUILD_SECONDS = 100  # it takes 6 s on a machine that is not busy
# What a browser loads without a click.
LOADED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("object", "data"),
}


class Read(HTMLParser):
    """Notes the links, the loaded files and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if tag == "a" and name == "href" and value:
                self.links.append(value)
            if (tag, name) in LOADED and value:
                self.loaded.append(value)


@cache
def read(page: Path) -> Read:
    return Read(page.read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    if not PYTHON.exists():
        cannot_run("the generator is not installed: make environment-docs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [PYTHON, "-m", "docs.site", folder],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def pages(site: Path) -> Iterator[Path]:
    """Yield the pages, without the one for an address that is unknown: its links begin at the root of a host."""
    return (page for page in site.rglob("*.html") if page.name != "404.html")


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    for page in pages(site):
        foreign = [one for one in read(page).loaded if re.match(r"(\w+:)?//", one)]
        assert not foreign, page
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:\w+:)?//[^)]*|@import[^;]*", style.read_text()), style


def test_every_loaded_file_and_every_link_of_the_site_is_there(site: Path) -> None:
    assert sum(1 for _ in pages(site)) > 100
    for page in pages(site):
        for link in [*read(page).links, *read(page).loaded]:
            if re.match(r"\w+:", link):
                continue
            path, anchor = urldefrag(link)
            goal = (page.parent / unquote(path)).resolve() if path else page
            goal = goal / "index.html" if goal.is_dir() else goal
            assert goal.exists(), (page, link)
            if anchor and goal.suffix == ".html":
                assert unquote(anchor) in read(goal).anchors, (page, link)


def test_diagrams_are_drawn_by_the_kept_script(site: Path) -> None:
    text = (site / "architecture.html").read_text()
    assert '<pre class="mermaid"><code>' in text
    assert "assets/kept/mermaid.tiny.js" in " ".join(read(site / "architecture.html").loaded)


def test_lists_and_code_in_lists_are_shown_as_such(site: Path) -> None:
    text = (site / "failover.html").read_text()
    assert "```" not in text
    assert (
        len(re.findall(r"</p>\s*<div class=\"language-sh highlight\">(?:(?!</?li>).)*</div>\s*</li>", text, re.S)) > 3
    )


def test_the_search_finds_every_page(site: Path) -> None:
    index = json.loads((site / "search.json").read_text())
    found = {urldefrag(item["location"])[0] for item in index["items"]}
    assert {page.relative_to(site).as_posix() for page in pages(site)} - found == set()


def test_pages_in_korean_say_so(site: Path) -> None:
    assert {page.name for page in (site / "ko").glob("*.html")} == {"index.html", "tutorial.html"}
    for page in pages(site):
        language = "ko" if page.parent.name == "ko" else "en"
        assert f'<html lang="{language}"' in page.read_text(), page


def test_the_first_page_of_a_section_is_listed_too(site: Path) -> None:
    text = (site / "metrics.html").read_text()
    for page in ("services/order/index.html", "deploy/console/index.html", "services/relay/index.html"):
        assert re.search(rf'<a href="[^"]*{page}" class="md-nav__link">', text), page


def test_picture_of_the_readme_is_shown_in_light_and_in_dark(site: Path) -> None:
    pictures = [one for one in read(site / "platform.html").loaded if "pictures/playground" in one]
    assert [one.rpartition("/")[2] for one in pictures] == [
        "playground-light.png#only-light",
        "playground-dark.png#only-dark",
    ]
