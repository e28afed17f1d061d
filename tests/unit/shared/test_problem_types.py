"""The catalogue of problem types has each type that is answered, and docs/api.md says the same."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import services
import shared
from shared.contracts.problem_types import CATALOGUE, FOR_CLIENTS
from shared.contracts.problem_types.problem_type import ProblemType, Retry, by_slug
from shared.http import problems
from shared.refusals import Refusal, Unavailable

API = (Path(__file__).parents[3] / "docs" / "api.md").read_text()


def refusals(base: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    """Yield every class of a refusal of the product."""
    for one in base.__subclasses__():
        if one.__module__.split(".")[0] in {"services", "shared"}:
            yield one
        yield from refusals(one)


@pytest.fixture(scope="module")
def answered() -> set[tuple[str, int]]:
    """Return slug and status of every problem that the product answers."""
    for package in (services, shared):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    of_the_library = {(slug, status) for status, (slug, _) in problems._BY_STATUS.items()}
    own = {(one.slug, one.status) for one in refusals()}
    return own | of_the_library | {(Unavailable.slug, Unavailable.status)}


def test_catalogue_has_exactly_the_problems_that_are_answered(answered: set[tuple[str, int]]) -> None:
    assert {(one.slug, one.status) for one in CATALOGUE.values()} == answered


def test_two_types_of_one_slug_are_refused() -> None:
    with pytest.raises(ValueError, match="two problem types are fenced"):
        by_slug([CATALOGUE["fenced"], CATALOGUE["fenced"]])


def row(one: ProblemType) -> str:
    return " | ".join(["", f"`{one.slug}`", str(one.status), one.members, one.retry.value, one.meaning, ""])


def test_tables_of_the_api_say_what_the_catalogue_says() -> None:
    section = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", API.partition("\n## Problem types\n")[2].partition("\n## ")[0])
    rows = [line for line in section.splitlines() if re.match(r"\| `[a-z-]+` \| \d", line)]
    assert [re.sub(r" +", " ", line) for line in rows] == [
        re.sub(r" +", " ", row(one).strip()) for one in CATALOGUE.values()
    ]
    assert len(FOR_CLIENTS) < len(rows)


def test_api_explains_every_kind_of_retry() -> None:
    explained = set(
        re.findall(r"^\| `([a-z]+)` \| (?!\d)", API.partition("| retry | may")[2].partition("\n\n")[0], re.M)
    )
    assert explained == set(Retry)


@pytest.mark.parametrize("one", CATALOGUE.values(), ids=lambda one: one.slug)
def test_text_is_a_sentence_with_closed_code(one: ProblemType) -> None:
    assert one.remedy.endswith(".")
    assert one.remedy[0].isupper()
    assert not one.meaning.endswith(".")
    assert all(text.count("`") % 2 == 0 for text in (one.meaning, one.remedy, one.members))


@pytest.mark.parametrize("slug", ["idempotency-in-progress", "too-many-requests", "unavailable"])
def test_type_with_retry_after_says_that_the_same_request_may_be_sent_again(slug: str) -> None:
    assert CATALOGUE[slug].retry is Retry.SAME
    assert "`Retry-After`" in CATALOGUE[slug].meaning
