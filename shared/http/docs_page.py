"""The page at /docs: Swagger UI shows the OpenAPI document, and sends requests. Its files lie in swagger_ui/."""

import asyncio
import html
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from aiohttp import web

from shared.http.pages import SAFE, source
from shared.http.problems import NotFound

PATH = "/docs"
FOLDER = Path(__file__).parent / "swagger_ui"
# By name: the media type of each file that the page loads.
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
VERSION = tomllib.loads((FOLDER / "RECORD.toml").read_text())["version"]
FILES_PATH = f"{PATH}/swagger-ui-{VERSION}"
_CACHED_SECONDS = 365 * 24 * 3600  # for ever: another version has another path

_SCRIPT = Path(__file__).with_name("docs_page.js").read_text()
_STYLE = Path(__file__).with_name("docs_page.css").read_text()
# Everything comes from this listener, and the one script and the one style in the page are allowed by their hashes. The
# viewer sets its styles by script, so that no other has to stand in the page.
POLICY = (
    f"default-src 'none'; script-src 'self' {source(_SCRIPT)}; style-src 'self' {source(_STYLE)}; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{files}/swagger-ui.css">
<style>{style}</style>
</head>
<body>
<noscript>This page needs JavaScript. It shows <a href="/openapi.json">/openapi.json</a>.</noscript>
<main id="viewer"></main>
<script src="{files}/swagger-ui-bundle.js"></script>
<script>{script}</script>
</body>
</html>
"""

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pages(title: str) -> Mapping[str, Handle]:
    """Return the handlers of the page and its files, by path. `title`: of the OpenAPI document."""
    page = _PAGE.format(title=html.escape(title), files=FILES_PATH, script=_SCRIPT, style=_STYLE)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", **SAFE}

    async def show(_request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html", headers=headers)

    return {PATH: show, f"{FILES_PATH}/{{name}}": _show_file}


async def _show_file(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in FILES:
        raise NotFound
    # Read each time: a browser keeps the file, so that it is not worth 2 MB of each process.
    body = await asyncio.to_thread((FOLDER / name).read_bytes)
    headers = {"Cache-Control": f"public, max-age={_CACHED_SECONDS}, immutable", **SAFE}
    return web.Response(body=body, content_type=FILES[name], charset="utf-8", headers=headers)
