"""Ids that clients may create, and ids that they could create in earlier versions."""

from urllib.parse import quote

from yarl import URL

# These can be created, and must be found at their paths.
AWKWARD = (
    *("{x}", "a{b", "}", "{product_id}", "%", "%2F", "%2e%2e", "%zz", "a b", " ", "+", "a+b", "?", "a?b=c", "#", "a#b"),
    *(";", "a;b=c", "&", "=", "@", ":", "~", "'", '"', "`", "<>", "|", "^", "[]", "...", ".a", "a."),
    *("$&'()*,!", "é", "e\u0301", "日本語", "\u202e", "\u2028", "\u00a0", "\U0001f642" * 128, '"' * 128, "x" * 128),
    *("me", "null", "0", "-1", "retry", "charges", "'; DROP TABLE products; --", "http:example.com"),
)
# These can no longer be created, because proxies change them in a path.
UNADDRESSABLE = (".", "..", "/", "a/b", "/a", "a/", "../x", "a/../b", "\\", "a\\b", "..\\..", "//evil.example")


def at(path: str, id_: str, rest: str = "") -> URL:
    """Return the address of the object with this id. Dots are escaped too: a client would normalise one or two."""
    return URL(f"{path}/{quote(id_, safe='').replace('.', '%2E')}{rest}", encoded=True)
