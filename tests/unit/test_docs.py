"""What the documents say about the code is true where a machine can tell: links, places, settings, metrics, habits."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import ServiceSettings

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("services/*/*.md"),
        *REPOSITORY.glob("deploy/*/*.md"),
    ]
)
SERVICES = sorted(path.parent.name for path in REPOSITORY.glob("services/*/settings.py"))
DECISIONS = REPOSITORY / "docs" / "decisions"

CODE = re.compile(r"^```.*?^```|^(?: {4}|\t).*?$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"`([\w./-]+\.(?:py|sql)):(\w+)`")
METRIC = re.compile(r"\b(?:Counter|Gauge|Histogram)\(\s*\"(\w+)\"")
HABIT = re.compile(r"\bmake ([a-z][a-z-]*)")


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them; of equal ones only the first."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[str]:
    """The targets of a document's links that lie in this repository."""
    for target in LINK.findall(CODE.sub("", document.read_text())):
        if "://" not in target:
            yield target


def settings_of(package: str) -> set[str]:
    """The variables that a service reads from its environment."""
    module = importlib.import_module(f"{package}.settings")
    (found,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, ServiceSettings) and member.__module__ == module.__name__
    )
    prefix = found.model_config.get("env_prefix", "")
    return {
        field.validation_alias if isinstance(field.validation_alias, str) else f"{prefix}{name}".upper()
        for name, field in found.model_fields.items()
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in links(document):
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_place_named_in_the_code_is_there(document: Path) -> None:
    for path, name in PLACE.findall(document.read_text()):
        file = REPOSITORY / path
        assert file.exists(), path
        defined = rf"(?:\bdef |\bclass |-- name: |\bINDEX |\bFUNCTION \w+\.){name}\b|^ *{name}\b(?:: |:| =|\s+\w)"
        assert re.search(defined, file.read_text(), re.M), f"{path} has no {name}"


@pytest.mark.parametrize("package", [*(f"services.{service}" for service in SERVICES), "deploy.consumer"])
def test_every_setting_of_a_service_is_in_its_readme(package: str) -> None:
    readme = REPOSITORY.joinpath(*package.split("."), "README.md").read_text()
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", readme))
    assert settings_of(package) <= documented


@pytest.mark.parametrize(
    ("sources", "document"),
    [(("services", "shared"), "docs/metrics.md"), (("deploy/consumer",), "deploy/consumer/README.md")],
)
def test_every_metric_is_explained_and_every_one_explained_exists(sources: tuple[str, ...], document: str) -> None:
    paths = [path for source in sources for path in REPOSITORY.glob(f"{source}/**/*.py")]
    declared = {name for path in paths for name in METRIC.findall(path.read_text())}
    explained = set(re.findall(r"^\| `([a-z]\w+)`", (REPOSITORY / document).read_text(), re.M))
    assert declared
    assert declared == explained


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_habit_named_exists(document: Path) -> None:
    habits = set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.M))
    named = {
        habit for text in re.findall(r"`[^`]*`|^ {4}.*$", document.read_text(), re.M) for habit in HABIT.findall(text)
    }
    assert named <= habits


def test_every_decision_is_listed_and_says_all_it_should() -> None:
    index = (DECISIONS / "README.md").read_text()
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    numbers = [page.name[:4] for page in pages]  # given out before pages are written, so some may still be missing
    assert len(set(numbers)) == len(numbers)
    for page in pages:
        text = page.read_text()
        assert f"({page.name})" in index
        assert text.startswith(f"# {page.name[:4]}: ")
        parts = ["Context", "Decision", "Consequences", "What would change our mind"]
        assert re.findall(r"^## (.+)$", text, re.M) == parts, page.name
