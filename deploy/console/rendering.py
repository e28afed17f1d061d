"""Renders the templates. All values are escaped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy.console import assets
from deploy.console.routes import Page
from deploy.console.texts import LANGUAGES

TEMPLATES = Path(__file__).parent / "templates"


def environment(templates: Path) -> Environment:
    """Return the templates of a folder. They escape what they show, and know the addresses of the console's assets."""
    found = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.globals["asset"] = assets.url
    return found


class Renderer:
    """The templates, with what each of them may use. `pages`: those of the navigation."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._environment = environment(TEMPLATES)
        self._environment.globals |= {"languages": LANGUAGES, "pages": pages}

    def render(self, template: str, **values: Any) -> str:
        """Return a page as HTML."""
        return self._environment.get_template(template).render(values)
