"""The texts of all pages, in each language: texts/<language>.toml of the console, and of what else shows pages."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "texts"
# By code: how each language calls itself.
LANGUAGES: Mapping[str, str] = {"en": "English", "ko": "한국어"}
DEFAULT = "en"
# No two parts of it that follow each other match spaces: their number of ways would grow with the square.
_RANGE = re.compile(r"([A-Za-z]{1,8})(?:-[A-Za-z0-9-]+)?(?:\s*;\s*q\s*=\s*([01](?:\.\d{0,3})?))?")


class Texts:
    """The texts in one language."""

    def __init__(self, language: str, catalogue: Mapping[str, str]) -> None:
        self.language = language
        self._catalogue = catalogue

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with its values. Raises KeyError."""
        return self._catalogue[key].format(**values)

    def known(self, key: str, otherwise: str) -> str:
        """Return a text, or `otherwise` if there is none: for words of the services, which may add some."""
        return self._catalogue.get(key, otherwise)


@cache
def texts(language: str, *further: Path) -> Texts:
    """Return the console's texts in a language, and those of further folders."""
    found: dict[str, str] = {}
    for folder in (FOLDER, *further):
        found |= catalogue(language, folder)
    return Texts(language, found)


def catalogue(language: str, folder: Path = FOLDER) -> Mapping[str, str]:
    """Return all texts of a language in a folder by their keys, such as `live.title`."""
    return dict(_flat("", tomllib.loads((folder / f"{language}.toml").read_text("utf-8"))))


def choose(cookie: str | None, accepted: str) -> str:
    """Return the language of a visitor: the chosen one, or else the best of `Accept-Language`."""
    if cookie is not None and cookie in LANGUAGES:
        return cookie
    best, best_weight = DEFAULT, 0.0
    for part in accepted.split(","):
        known = _RANGE.fullmatch(part.strip())
        if known is None:
            continue
        weight = float(known[2] or 1)
        if known[1].lower() in LANGUAGES and weight > best_weight:
            best, best_weight = known[1].lower(), weight
    return best


def _flat(prefix: str, table: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        found += _flat(f"{prefix}{name}.", value) if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found
