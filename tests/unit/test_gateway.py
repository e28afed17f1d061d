"""The gateway's own answers are problems with the same texts as the services', and the documents list them."""

import json
import re
from pathlib import Path
from typing import Any

from shared.http import problems
from shared.http.wire import BODY_MAX_BYTES

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = (REPOSITORY / "deploy" / "gateway" / "nginx.conf").read_text()
TOO_MANY_REQUESTS = "Too many requests"
API = (REPOSITORY / "docs" / "api.md").read_text()
ANSWERS = re.compile(r"location = /answers/([\w-]+) \{.*?return (\d+) '(.*)';", re.S)


def answers() -> list[tuple[str, int, dict[str, Any]]]:
    """Return slug, status and body of each answer in the gateway's configuration."""
    found = re.split(r"^    }$", CONFIGURATION, flags=re.M)
    matches = [match for block in found if (match := ANSWERS.search(block))]
    return [(match[1], int(match[2]), json.loads(match[3].replace("\\'", "'"))) for match in matches]


def test_answer_of_the_gateway_equals_a_service_s() -> None:
    titles = dict(problems._BY_STATUS.values())
    titles |= {"unavailable": problems.UNAVAILABLE, "too-many-requests": TOO_MANY_REQUESTS}
    for slug, status, body in answers():
        detail = "The service did not answer." if slug == "unavailable" else titles[slug] + "."
        assert body == json.loads(problems.encode(status, slug, titles[slug], detail, "/"))


def test_every_error_of_nginx_has_an_answer() -> None:
    targets = re.findall(r"^    error_page ([\d ]+) = /answers/([\w-]+);$", CONFIGURATION, re.M)
    assert {slug for _, slug in targets} == {slug for slug, _, _ in answers()}
    # All statuses that nginx itself can answer here: TLS, files and logins are not used.
    assert {int(code) for codes, _ in targets for code in codes.split()} == {
        *(400, 404, 405, 411, 413, 414, 417, 429, 494),
        *(500, 501, 502, 503, 504, 505),
    }
    assert len(re.findall(r"^ +return (?!\d{3};)", CONFIGURATION, re.M)) == len(answers())


def test_the_gateway_takes_as_large_bodies_as_the_services() -> None:
    assert re.findall(r"client_max_body_size (\d+)k;", CONFIGURATION) == [str(BODY_MAX_BYTES // 1024)]


def test_the_documents_list_the_gateway_s_problems() -> None:
    [own] = re.findall(r"^The gateway of `deploy/gateway` (.*?)\n\n(?!- )", API, re.M | re.S)
    slugs = {slug for slug, _, _ in answers()}
    assert {slug for slug in re.findall(r"`([a-z-]+)`", own) if slug in slugs} == slugs
    for slug, status, _ in answers():
        rows = [line for line in API.splitlines() if line.startswith("|") and f"`{slug}`" in line.split("|")[1]]
        assert any(str(status) in row.split("|")[2] for row in rows), slug
