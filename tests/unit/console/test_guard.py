"""The console serves its own pages only: each kind of foreign request is refused."""

from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from deploy.console.guard import Refused, check

ORIGINS = {"https://console.example.com"}
OURS = {"Host": "console.example.com"}
FORM = {**OURS, "Origin": "https://console.example.com", "Sec-Fetch-Site": "same-origin"}
OPENED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def refused(method: str, headers: Mapping[str, str | None]) -> tuple[int, str] | None:
    given = CIMultiDict({name: value for name, value in headers.items() if value is not None})
    try:
        check(method, given, ORIGINS)
    except Refused as error:
        return error.status, error.reason
    return None


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        pytest.param("GET", OURS, id="without metadata: an older browser, or curl"),
        pytest.param("GET", {**OURS, "Sec-Fetch-Site": "none"}, id="address typed"),
        pytest.param("GET", {**OURS, "Sec-Fetch-Site": "same-origin"}, id="own link"),
        pytest.param("GET", {**OURS, **OPENED}, id="link of another site"),
        pytest.param("GET", {"host": "CONSOLE.example.com"}, id="other case"),
        pytest.param("POST", FORM, id="own form"),
        pytest.param("POST", {**FORM, "Sec-Fetch-Site": None}, id="own form of an older browser"),
    ],
)
def test_request_of_our_own_pages_is_served(method: str, headers: Mapping[str, str | None]) -> None:
    assert refused(method, headers) is None


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["rebound.example.net", "console.example.com:8020", "127.0.0.1", "", None])
def test_other_host_is_refused(method: str, host: str | None) -> None:
    assert refused(method, {**FORM, "Host": host}) == (421, "host")


@pytest.mark.parametrize("origin", ["https://evil.example.net", "http://console.example.com", "null", "", None])
def test_form_of_another_origin_is_refused(origin: str | None) -> None:
    assert refused("POST", {**FORM, "Origin": origin}) == (403, "origin")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "unknown"])
def test_form_of_another_site_is_refused(site: str) -> None:
    assert refused("POST", {**FORM, "Sec-Fetch-Site": site}) == (403, "site")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_checked_as_forms_are(method: str) -> None:
    assert refused(method, OURS) == (403, "origin")


@pytest.mark.parametrize(
    "metadata",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {**OPENED, "Sec-Fetch-Dest": "iframe"},
        {**OPENED, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
    ],
    ids=["fetch", "frame", "image", "subdomain"],
)
def test_part_of_another_sites_page_is_refused(metadata: dict[str, str | None]) -> None:
    assert refused("GET", {**OURS, **metadata}) == (403, "site")
