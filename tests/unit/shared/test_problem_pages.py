"""The page of a problem type: complete, without scripts, and under a policy that allows its own style only."""

import base64
import hashlib
import re

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from shared.contracts.problem_types import CATALOGUE
from shared.http.pages import POLICY
from shared.http.problem_pages import prefers_json, show, show_all
from shared.http.problems import NotFound
from tests.unit.page_reading import ReadPage


async def ask(slug: str | None, accept: str | None = None) -> web.Response:
    headers = {} if accept is None else {"Accept": accept}
    if slug is None:
        return await show_all(make_mocked_request("GET", "/problems", headers))
    request = make_mocked_request("GET", f"/problems/{slug}", headers, match_info={"slug": slug})
    return await show(request)


def read(answer: web.Response) -> ReadPage:
    assert answer.text is not None
    return ReadPage(answer.text)


@pytest.mark.parametrize("slug", CATALOGUE)
async def test_page_says_all_that_the_catalogue_knows(slug: str) -> None:
    one, page = CATALOGUE[slug], read(await ask(slug))
    for text in (one.slug, str(one.status), one.meaning[1:], one.members, one.retry.advice, one.remedy):
        assert text.replace("`", "") in page.text
    assert "`" not in page.text
    assert page.links == {"/problems"}


async def test_list_links_to_every_page() -> None:
    assert read(await ask(None)).links == {f"/problems/{slug}" for slug in CATALOGUE}


@pytest.mark.parametrize("slug", [None, "out-of-stock"])
async def test_page_has_only_what_its_policy_allows(slug: str | None) -> None:
    answer = await ask(slug)
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    assert read(answer).is_passive
    assert answer.text is not None
    [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.S)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in POLICY


async def test_unknown_type_is_not_found() -> None:
    with pytest.raises(NotFound):
        await ask("no-such-problem")


async def test_client_that_prefers_json_gets_the_same_as_data() -> None:
    answer = await ask("invalid-coupon", "application/json")
    assert answer.content_type == "application/json"
    assert answer.headers["Vary"] == "Accept"
    data = orjson.loads(answer.body)  # type: ignore[arg-type]
    one = CATALOGUE["invalid-coupon"]
    assert data == {
        "type": "/problems/invalid-coupon",
        "status": 400,
        "meaning": one.meaning,
        "members": ["reason", "order_id", "min_subtotal"],
        "retry": "later",
        "retry_advice": one.retry.advice,
        "remedy": one.remedy,
    }
    listed = orjson.loads((await ask(None, "application/json")).body)  # type: ignore[arg-type]
    assert [item["type"] for item in listed["items"]] == [one.path for one in CATALOGUE.values()]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/*", True),
        ("application/json, text/html", False),
        ("application/json, text/html;q=0.9", True),
        ("application/json;q=0.5, text/html", False),
        ("application/json;q=0", False),
        ("text/*;q=0.1, application/json;q=0.2", True),
        ("application/json;q=nonsense", False),
        ("application/json;q=7", False),
        (";;,,=", False),
    ],
)
def test_preference_follows_the_weights_of_accept(accept: str, expected: bool) -> None:
    assert prefers_json(accept) is expected
