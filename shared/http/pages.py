"""The frame of the pages that a service writes itself: one style, no scripts, and a policy that allows nothing else."""

import base64
import hashlib
import html
import re

_STYLE = """
:root { color-scheme: light dark; background: Canvas; color: CanvasText }
a { color: LinkText }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3, code { font-family: ui-monospace, monospace }
h1 { font-size: 1.4rem }
h2 { font-size: 1.2rem; margin-top: 2.5rem }
h3 { font-size: 1rem; margin-top: 2rem }
h1, h2, h3, code { overflow-wrap: anywhere }
dt { font-weight: 600; margin-top: 1rem }
dd { margin: 0 }
table { border-collapse: collapse }
th { text-align: left }
td, th { padding: .3rem 1rem .3rem 0; vertical-align: top }
@media (max-width: 40rem) {
  th { display: none }
  tr, td { display: block; padding: 0 }
  tr { padding: .5rem 0; border-top: 1px solid }
}
"""


def source(text: str) -> str:
    """Return what allows a style or a script that stands in a page, for its Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
# Nothing is loaded or run, and no other page may frame these; the one style is allowed by its hash.
POLICY = f"default-src 'none'; style-src {source(_STYLE)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    **SAFE,
    "Cache-Control": "public, max-age=3600",  # changes with a version of the service only
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{content}
</body>
</html>
"""
_CODE = re.compile(r"`([^`]+)`")


def page(title: str, content: str) -> str:
    """Return a page; `content` is HTML, `title` is text."""
    return _PAGE.format(title=html.escape(title), style=_STYLE, content=content)


def marked_up(text: str) -> str:
    """Return a text as HTML, with what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", html.escape(text))
