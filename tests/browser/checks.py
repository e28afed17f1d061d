"""What every page has to fulfil, in light and in dark: no barrier that axe-core finds, and no scrolling sideways."""

from pathlib import Path
from typing import Literal

from playwright.sync_api import Page

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
COLOURS = ("color-contrast", "link-in-text-block")  # what may differ between light and dark
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
GRAVE = ("serious", "critical")
NARROW = {"width": 360, "height": 740}  # of a small phone
_SIDEWAYS = """async () => {
  // Once the page has been laid out for the window's width: charts are, right before they are painted.
  for (const _ of [1, 2]) await new Promise(requestAnimationFrame)
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth <= width) return []
  return [...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > width + 1)
    .map(one => `${one.tagName}.${one.className} ends at ${one.getBoundingClientRect().right}`).slice(0, 20)
    .concat([`the page is ${document.documentElement.scrollWidth} px wide`])
}"""


def barriers(page: Page, *rules: str) -> list[str]:
    """Return the serious and critical findings of axe-core, each with an element that it is about.

    `rules`: those to try, instead of all.
    """
    page.evaluate(f"{AXE}; 0")
    only = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    found = page.evaluate("options => axe.run(document, options)", {"resultTypes": ["violations"], **only})
    return [
        f"{one['impact']} {one['id']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


def check_looks(page: Page) -> None:
    """Check the page as it is now: in light and in dark, and on a small phone."""
    size = page.viewport_size
    assert size is not None
    found = [f"in light: {one}" for one in barriers(page)]
    page.emulate_media(color_scheme="dark")
    found += [f"in dark: {one}" for one in barriers(page, *COLOURS)]
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(NARROW)
    found += [f"on a phone: {one}" for one in sideways(page)]
    page.set_viewport_size(size)
    assert not found, "\n".join(found)


def sideways(page: Page) -> list[str]:
    """Return what makes the page wider than the window, if it is."""
    found: list[str] = page.evaluate(_SIDEWAYS)
    return found
