"""Writes the pages of docs/reference from the code: `make reference`.

A page has only what no other document says by hand, and links to what one does.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from docs.site.reference_pages.commands import commands
from docs.site.reference_pages.events import events
from docs.site.reference_pages.problems import problems
from docs.site.reference_pages.settings import settings

PAGES = {"settings": settings, "problem-types": problems, "event-fields": events, "orderctl": commands}


def text_of(lines: Callable[[], Iterable[str]]) -> str:
    """Return the text of a page."""
    return "\n".join(lines()) + "\n"


def write(folder: Path) -> None:
    """Write all pages."""
    for name, lines in PAGES.items():
        (folder / f"{name}.md").write_text(text_of(lines))


def outdated(folder: Path) -> list[str]:
    """Return the pages that are not what the code says."""
    found = []
    for name, lines in PAGES.items():
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text() != text_of(lines):
            found.append(page.name)
    return found


def main() -> None:
    """Write the pages, or with --check say which are outdated, and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m docs.site.reference", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is outdated")
    arguments = parser.parse_args()
    if not arguments.check:
        write(arguments.folder)
    elif found := outdated(arguments.folder):
        sys.exit(f"{', '.join(found)} in {arguments.folder} is not what the code says: make reference")


if __name__ == "__main__":
    main()
