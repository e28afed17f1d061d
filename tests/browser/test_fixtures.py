"""The fixture `page` and the checks notice what a page does wrong."""

import hashlib
import tomllib
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from tests.browser.checks import check_looks

AXE = Path(__file__).parent / "axe"
ADDRESS = "http://127.0.0.1:1/"


@pytest.mark.parametrize(
    ("content", "noticed"),
    [
        ("<script>alert(1)</script>", "Content Security Policy"),
        ("<p style='color: red'>red</p>", "Content Security Policy"),
        ("<img src='http://example.com/image.png' alt=''>", "another host"),
        ("<script src='/thrown'></script>", "thrown: "),
        ("<script src='/logged'></script>", "error: logged"),
    ],
)
def test_page_that_does_something_wrong_is_noticed(page: Page, errors: list[str], content: str, noticed: str) -> None:
    scripts = {"/thrown": "throw new Error('thrown')", "/logged": "console.error('logged')"}

    def answer(route: Route) -> None:
        path = "/" + route.request.url.removeprefix(ADDRESS)
        if path in scripts:
            route.fulfill(content_type="text/javascript", body=scripts[path])
        else:
            headers = {"Content-Security-Policy": "default-src 'self'", "Content-Type": "text/html"}
            route.fulfill(headers=headers, body=f"<!doctype html><link rel=icon href='/icon'>{content}")

    page.route("**/*", answer)
    page.goto(ADDRESS)
    page.wait_for_function("document.readyState == 'complete'")
    assert any(noticed in error for error in errors), errors
    errors.clear()


@pytest.mark.parametrize(
    ("content", "noticed"),
    [
        ("<p style='color: #777; background: #888'>text</p>", "color-contrast"),
        ("<input>", "label"),
        ("<p style='width: 500px'>wide</p>", "the page is"),
        (
            "<style>@media (prefers-color-scheme: dark) { p { color: #222; background: #000 } }</style><p>text",
            "in dark",
        ),
    ],
)
def test_page_with_a_barrier_is_noticed(page: Page, content: str, noticed: str) -> None:
    page.set_content(f"<!doctype html><html lang=en><title>a page</title><main><h1>a page</h1>{content}</main>")
    with pytest.raises(AssertionError, match=noticed):
        check_looks(page)


def test_kept_files_of_axe_core_are_those_of_the_record() -> None:
    record = tomllib.loads((AXE / "RECORD.toml").read_text())
    kept = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in AXE.iterdir()}
    del kept["RECORD.toml"]
    assert kept == record["sha256"]
    assert kept.keys() >= {"LICENSE", "LICENSE-3RD-PARTY.txt"}
    assert (AXE / "axe.min.js").read_text().startswith(f"/*! axe v{record['version']}\n")
