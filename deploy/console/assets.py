"""The files that pages load: the console's own, and kept packages. Their paths change with their content."""

import asyncio
import hashlib
from pathlib import Path

from aiohttp import web

STATIC = Path(__file__).parent / "static"
VENDOR = STATIC / "vendor"
# By name: where each file lies, and its media type.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {path.name: path for path in (*STATIC.iterdir(), *VENDOR.glob("*/*")) if path.suffix in _TYPES}
_CACHED_SECONDS = 365 * 24 * 3600  # for ever: other content has another path
_DIGESTS = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in _FILES.items()}


def url(name: str) -> str:
    """Return the path from which a page loads a file. Raises KeyError."""
    return f"/static/{_DIGESTS[name]}/{name}"


async def serve(request: web.Request) -> web.Response:
    """Answer with a file. Raises HTTPNotFound."""
    name = request.match_info["name"]
    if _DIGESTS.get(name) != request.match_info["digest"]:
        raise web.HTTPNotFound
    path = _FILES[name]
    body = await asyncio.to_thread(path.read_bytes)
    headers = {"Cache-Control": f"public, max-age={_CACHED_SECONDS}, immutable"}
    return web.Response(body=body, content_type=_TYPES[path.suffix], charset="utf-8", headers=headers)
