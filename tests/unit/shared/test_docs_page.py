"""The page at /docs loads the kept files of Swagger UI, which are those of the recorded package, and nothing else."""

import base64
import hashlib
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from shared.http.docs_page import FILES, FOLDER, POLICY, VERSION, pages
from shared.http.problems import NotFound

REPOSITORY = Path(__file__).parents[3]
RECORD = tomllib.loads((FOLDER / "RECORD.toml").read_text())
PAGES = pages("a <service>")
[FILE_PATH] = [path for path in PAGES if path != "/docs"]


async def ask(path: str, **match_info: str) -> web.Response:
    answer = await PAGES[path](make_mocked_request("GET", path, match_info=match_info))
    assert isinstance(answer, web.Response)
    return answer


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_kept_files_are_those_of_the_record() -> None:
    kept = {path.name: sha256(path.read_bytes()) for path in FOLDER.iterdir() if path.name != "RECORD.toml"}
    assert kept == RECORD["sha256"]
    assert kept.keys() >= FILES.keys() | {"LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"}


def test_record_names_package_version_licence_and_integrity() -> None:
    assert (RECORD["package"], RECORD["license"]) == ("swagger-ui-dist", "Apache-2.0")
    assert "Apache License" in (FOLDER / "LICENSE").read_text()
    assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", RECORD["integrity"])
    assert f'"{VERSION}"' in (FOLDER / "swagger-ui-bundle.js").read_text()


def test_images_take_the_kept_files() -> None:
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert "!shared" in lines
    excluded = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    assert not [path for path in FOLDER.iterdir() for pattern in excluded if fnmatch(path.name, pattern)]


async def test_page_loads_only_kept_files() -> None:
    page = (await ask("/docs")).text
    assert page is not None
    assert "<title>a &lt;service&gt;</title>" in page
    loaded = set(re.findall(r'(?:src|rel="stylesheet" href)="([^"]+)"', page))
    assert loaded == {FILE_PATH.replace("{name}", name) for name in FILES}
    assert "//" not in re.sub(r"<script>.*</script>", "", page, flags=re.S)


async def test_policy_allows_what_this_origin_has_and_the_one_script_and_style_in_the_page() -> None:
    answer = await ask("/docs")
    assert answer.headers["Content-Security-Policy"] == POLICY
    directives = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert answer.text is not None
    [script] = re.findall(r"<script>(.*?)</script>", answer.text, re.S)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert directives["script-src"] == f"'self' 'sha256-{hashed}'"
    [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.S)
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert directives["style-src"] == f"'self' 'sha256-{hashed}'"
    assert directives["connect-src"] == "'self'"
    assert directives["default-src"] == directives["frame-ancestors"] == "'none'"
    assert "http" not in POLICY
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("name", FILES)
async def test_file_is_cached_for_ever_under_the_path_of_its_version(name: str) -> None:
    answer = await ask(FILE_PATH, name=name)
    assert VERSION in FILE_PATH
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.content_type == FILES[name]
    assert isinstance(answer.body, bytes)
    assert sha256(answer.body) == RECORD["sha256"][name]


@pytest.mark.parametrize("name", ["RECORD.toml", "../docs_page.py", "LICENSE", ""])
async def test_other_files_are_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        await ask(FILE_PATH, name=name)


async def test_page_itself_is_not_cached() -> None:
    assert (await ask("/docs")).headers["Cache-Control"] == "no-cache"
