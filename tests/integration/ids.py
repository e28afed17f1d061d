"""Ids as clients make them, and as they could once."""

from urllib.parse import quote

from yarl import URL

# What can be made, and has to be found at its path.
AWKWARD = (
    *("{x}", "a{b", "}", "{product_id}", "%", "%2F", "%2e%2e", "%zz", "a b", " ", "+", "a+b", "?", "a?b=c", "#", "a#b"),
    *(";", "a;b=c", "&", "=", "@", ":", "~", "'", '"', "`", "<>", "|", "^", "[]", "...", ".a", "a."),
    *("$&'()*,!", "é", "e\u0301", "日本語", "\u202e", "\u2028", "\u00a0", "\U0001f642" * 128, '"' * 128, "x" * 128),
    *("me", "null", "0", "-1", "retry", "charges", "'; DROP TABLE products; --", "http:example.com"),
)
# What cannot be made any more, since proxies change it in a path.
UNADDRESSABLE = (".", "..", "/", "a/b", "/a", "a/", "../x", "a/../b", "\\", "a\\b", "..\\..", "//evil.example")


def at(path: str, id_: str, rest: str = "") -> URL:
    """The address of what has this id. Dots are escaped as well, or a client would take one or two for a step."""
    return URL(f"{path}/{quote(id_, safe='').replace('.', '%2E')}{rest}", encoded=True)
