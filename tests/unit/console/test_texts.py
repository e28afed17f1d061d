"""All languages have the same texts with the same values, and templates name only texts that exist."""

import re
import string
import time
from pathlib import Path

import pytest

from deploy.client import OrderStatus
from deploy.console.figures.live import CHARTS
from deploy.console.pages.live import TILES
from deploy.console.rendering import TEMPLATES
from deploy.console.texts import DEFAULT, FOLDER, LANGUAGES, catalogue, choose, texts
from deploy.local.playground import pages as playground
from deploy.local.playground.faults import Kind

FOLDERS, FOLDER_NAMES = (FOLDER, playground.TEXTS), ("console", "playground")
OTHERS = [language for language in LANGUAGES if language != DEFAULT]
TEXT = re.compile(r"""\bt\("([a-z0-9_.]+)"[,)]""")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("folder", FOLDERS, ids=FOLDER_NAMES)
def test_every_file_is_a_language(folder: Path) -> None:
    assert {path.stem for path in folder.iterdir()} == set(LANGUAGES)


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("folder", FOLDERS, ids=FOLDER_NAMES)
def test_language_has_the_same_keys(folder: Path, language: str) -> None:
    assert catalogue(language, folder).keys() == catalogue(DEFAULT, folder).keys()


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("folder", FOLDERS, ids=FOLDER_NAMES)
def test_texts_have_the_same_values(folder: Path, language: str) -> None:
    other = catalogue(language, folder)
    differing = [key for key, text in catalogue(DEFAULT, folder).items() if fields(text) != fields(other[key])]
    assert not differing


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_templates_name_texts_that_exist(path: Path) -> None:
    assert [key for key in TEXT.findall(path.read_text()) if key not in catalogue(DEFAULT)] == []


def test_playground_has_the_text_of_everything_that_it_says() -> None:
    own = catalogue(DEFAULT, playground.TEXTS)
    assert not own.keys() & catalogue(DEFAULT).keys()
    folder = playground.HERE
    said = "".join(path.read_text() for path in (*folder.glob("*.py"), *folder.glob("templates/*.html")))
    known = {*own, *catalogue(DEFAULT)}
    assert [key for key in TEXT.findall(said) if key not in known] == []
    kinds = {kind for group in ("do", "do_to", "fault") for kind in Kind if f"platform.{group}.{kind}" not in own}
    assert not kinds
    assert [f"orders.statuses.{one}" for one in OrderStatus if f"orders.statuses.{one}" not in known] == []


def test_every_chart_figure_and_tile_has_its_text() -> None:
    known = catalogue(DEFAULT)
    for chart in CHARTS:
        assert f"live.{chart.name}.title" in known
        assert f"unit.{chart.unit}" in known
        assert all(f"live.{chart.name}.{figure.name}" in known for figure in chart.figures)
    assert all(f"live.tile.{tile.replace('.', '_')}" in known for tile in TILES)


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "ko", "ko"),
        (None, "ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", "ko"),
        (None, "en-US,en;q=0.9,ko;q=0.8", "en"),
        (None, "de, ko;q=0.3, en;q=0.2", "ko"),
        (None, "fr;q=0.9, *;q=0.1", "en"),
        (None, "ko;q=0", "en"),
        (None, ";;;,ko;q=x,\x00", "en"),
        ("en", "ko", "en"),
        ("ko", "en", "ko"),
        ("xx", "ko", "ko"),
        ("", "ko", "ko"),
    ],
)
def test_language_is_the_chosen_or_the_best_accepted_one(cookie: str | None, accepted: str, language: str) -> None:
    assert choose(cookie, accepted) == language


@pytest.mark.parametrize("space", [" ", "\t"])
@pytest.mark.parametrize("around", ["ko{}x", "ko;{}x", "ko;q{}x", "ko;q={}x", "ko;q=1{}x", "{}", "{}x", "ko{};"])
def test_language_is_found_soon_whatever_the_header_has(around: str, space: str) -> None:
    begin = time.process_time()
    choose(None, around.format(space * 8000))  # a header has 8 KiB at most
    assert time.process_time() - begin < 0.1


def test_text_is_returned_with_its_values() -> None:
    assert texts("en")("error.scope", scope="ops") == "Your token does not allow this: it needs the scope ops."
    assert texts("en").known("no.such", "word") == "word"
