"""A page in Korean has what its English page has: headings, code, tables, lists and links. So neither is forgotten."""

import posixpath
import re
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = {"docs/ko/README.md": "README.md", "docs/ko/tutorial.md": "docs/tutorial.md"}  # Korean: English
# What starts a block, and the code, of which comments are translated.
CODE = re.compile(r"^(?:<!-- [^\n]* -->\n)*```.*?^```$|^ {4}[^\n]*$", re.M | re.S)
COMMENT = re.compile(r" *(?<!\S)# .*$", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)|\bsrc(?:set)?=\"([^\"]+)\"")
NAMES = re.compile(r"`([^`]+)`")


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text()


def prose(page: str) -> str:
    return CODE.sub("", text_of(page))


def code(page: str) -> list[str]:
    """Return the code blocks, with what says how they run, and without their comments."""
    return [COMMENT.sub("", block) for block in CODE.findall(text_of(page))]


def lines(page: str, start: str) -> list[str]:
    return [found[0] for found in re.finditer(start, prose(page), re.M)]


def goals(page: str) -> Counter[str]:
    """Return the links and pictures with their places in the repository.

    The parts of a page itself have translated names.
    """
    found: Counter[str] = Counter()
    for link in ("".join(groups) for groups in LINK.findall(prose(page))):
        path, _, anchor = link.partition("#")
        if "://" in link:
            found[link] += 1
        elif not path:
            found["a part of the page"] += 1
        else:
            goal = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            found[PAGES.get(goal, goal) + (f"#{anchor}" if anchor else "")] += 1
    return found


@pytest.mark.parametrize(("korean", "english"), PAGES.items())
def test_korean_page_has_the_same_code(korean: str, english: str) -> None:
    assert code(korean) == code(english)


@pytest.mark.parametrize(("korean", "english"), PAGES.items())
@pytest.mark.parametrize("start", [r"^#+ ", r"^ *- ", r"^\d+\. ", r"^\|"], ids=["headings", "items", "steps", "rows"])
def test_korean_page_has_the_same_parts(korean: str, english: str, start: str) -> None:
    assert lines(korean, start) == lines(english, start)


@pytest.mark.parametrize(("korean", "english"), PAGES.items())
def test_korean_page_names_the_same_things(korean: str, english: str) -> None:
    assert Counter(NAMES.findall(prose(korean))) == Counter(NAMES.findall(prose(english)))


@pytest.mark.parametrize(("korean", "english"), PAGES.items())
def test_korean_page_links_to_the_same_places_and_each_to_the_other(korean: str, english: str) -> None:
    there, here = goals(korean), goals(english)
    assert there.pop(english) == 1
    assert here.pop(english) == 1, "the link to the Korean page"
    assert there == here
