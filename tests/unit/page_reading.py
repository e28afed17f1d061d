"""Reads a page as a browser does: which elements, attributes, links and texts it has."""

from html.parser import HTMLParser

VOID = {"meta"}
ACTIVE = {"script", "link", "img", "iframe", "form", "object", "base"}


class ReadPage(HTMLParser):
    """Collects the elements of a page, and checks that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name == "href"}
        self.anchors |= {value or "" for name, value in attrs if name == "id"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that the innermost element ends."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data

    @property
    def is_passive(self) -> bool:
        """Return whether the page has nothing that loads, runs or sends, and no style but the one in its head."""
        return not self.seen & ACTIVE and not {
            name for name in self.attributes if name == "style" or name.startswith("on")
        }
