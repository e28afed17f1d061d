"""Which requests are served: those of a browser that shows the console itself. Pure.

| threat                                              | what refuses it                                          |
|-----------------------------------------------------|----------------------------------------------------------|
| a page of another site that sends a form or a fetch | `Origin`, `Sec-Fetch-Site`, the token in each form       |
| a name of another site that leads here (rebinding)  | `Host`                                                   |
| a page of another site that loads parts of ours     | `Sec-Fetch-Site`: others may only open a page as a whole |
"""

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

SAFE_METHODS = ("GET", "HEAD")
OURS = ("same-origin", "none")  # none: a person has typed the address, or opened a bookmark


class Refused(Exception):  # noqa: N818 - a refusal, not an error
    """The request is not served; `reason` is the key of its text."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def check(method: str, headers: Mapping[str, str], origins: Collection[str]) -> None:
    """Raise Refused unless a browser that shows one of these origins may have sent this.

    `headers` finds names in any case.
    """
    if headers.get("Host", "").lower() not in {urlsplit(origin).netloc.lower() for origin in origins}:
        raise Refused(421, "host")
    site = headers.get("Sec-Fetch-Site")
    if method in SAFE_METHODS:
        if site is not None and site not in OURS and not _opens_a_page(headers):
            raise Refused(403, "site")
        return
    if site is not None and site != "same-origin":
        raise Refused(403, "site")
    # Browsers send it with each form.
    if headers.get("Origin", "").lower() not in origins:
        raise Refused(403, "origin")


def comes_from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Return whether a page of another site leads here: then the browser does not send our cookies, though it may have
    them."""
    return headers.get("Sec-Fetch-Site", "none") not in OURS


def _opens_a_page(headers: Mapping[str, str]) -> bool:
    return headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
