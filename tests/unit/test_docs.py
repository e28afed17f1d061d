"""The documents are correct where a test can check them: links, places, settings, metrics, log events, make targets."""

import ast
import importlib
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from tests.drills.__main__ import GROUPS

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("services/*/*.md"),
        *REPOSITORY.glob("deploy/*/*.md"),
    ]
)
TEXTS = sorted([*DOCUMENTS, *REPOSITORY.glob("tests/**/*.md")])
SERVICES = sorted(path.parent.name for path in REPOSITORY.glob("services/*/settings.py"))
DECISIONS = REPOSITORY / "docs" / "decisions"

CODE = re.compile(r"^```.*?^```|^(?: {4}|\t).*?$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"`([\w./-]+\.(?:py|sql)):(\w+)`")
METRIC = re.compile(r"\b(?:Counter|Gauge|Histogram)(?:MetricFamily)?\(\s*\"(\w+)\"")
LEVELS = {"exception": "error", **{level: level for level in ("debug", "info", "warning", "error", "critical")}}
LINE_CHARACTERS = 120
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub creates them; of equal headings only the first."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[str]:
    """Yield the targets of a document's links within this repository."""
    for target in LINK.findall(CODE.sub("", document.read_text())):
        if "://" not in target:
            yield target


def settings_of(package: str) -> set[str]:
    """Return the variables that a service reads from its environment."""
    module = importlib.import_module(f"{package}.settings")
    (found,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, BaseSettings) and member.__module__ == module.__name__
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


@pytest.mark.parametrize("document", TEXTS, ids=relative)
def test_lines_are_short_and_lists_and_tables_are_rendered_as_such(document: Path) -> None:
    lines = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S).splitlines()
    assert not [line for line in lines if len(line) > LINE_CHARACTERS and not line.startswith(("|", "    "))]
    indent = 0  # of the text of the current list item; 0 outside lists
    numbers: dict[int, int] = {}  # the last number of the items that start at this column
    for before, line in pairwise(["", *lines]):
        item = re.match(r" *(?:[-*]|(\d+)\.) ", line)
        if line.startswith("|"):
            assert before.startswith(("|", "#")) or not before, line
        elif item:
            assert indent or before.startswith("#") or not before, line
            indent = len(item[0])
            if item[1]:
                start = item.start(1)
                assert int(item[1]) in {1, numbers.get(start, 0) + 1}, line
                numbers[start] = int(item[1])
        elif line and not line.startswith(" "):
            assert not indent or not before, line  # a text that continues an item is as far to the right as the item
            indent = 0
        elif line and before and indent:
            assert line.startswith((" " * indent + line.lstrip()[0], " " * (indent + 4))), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_place_named_in_the_code_is_there(document: Path) -> None:
    for path, name in PLACE.findall(document.read_text()):
        file = REPOSITORY / path
        assert file.exists(), path
        defined = rf"(?:\bdef |\bclass |-- name: |\bINDEX |\bFUNCTION \w+\.){name}\b|^ *{name}\b(?:: |:| =|\s+\w)"
        assert re.search(defined, file.read_text(), re.M), f"{path} has no {name}"


@pytest.mark.parametrize(
    "package", [*(f"services.{service}" for service in SERVICES), "deploy.consumer", "deploy.console"]
)
def test_every_setting_of_a_service_is_in_its_readme(package: str) -> None:
    readme = REPOSITORY.joinpath(*package.split("."), "README.md").read_text()
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", readme))
    assert settings_of(package) <= documented


@pytest.mark.parametrize(
    ("sources", "document"),
    [
        (("services", "shared"), "docs/metrics.md"),
        (("deploy/consumer",), "deploy/consumer/README.md"),
        (("deploy/console",), "deploy/console/README.md"),
    ],
)
def test_every_metric_is_explained_and_every_one_explained_exists(sources: tuple[str, ...], document: str) -> None:
    paths = [path for source in sources for path in REPOSITORY.glob(f"{source}/**/*.py")]
    declared = {name for path in paths for name in METRIC.findall(path.read_text())}
    explained = set(re.findall(r"^\| `([a-z]\w+)`", (REPOSITORY / document).read_text(), re.M))
    assert declared
    assert declared == explained


def logged(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and a level of each log event that a module logs, itself or through LoopSupervisor."""
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call):
            continue
        function = ast.unparse(call.func)
        level = LEVELS.get(function.removeprefix("log.")) if function.startswith("log.") else None
        if level is not None:
            names, levels = call.args[:1], [level]
        elif function in {"log.log", "LoopSupervisor"}:
            names, levels = call.args[1:2], ["warning", "error"]
        else:
            continue
        # Else the name is a variable: LoopSupervisor's own calls, or a text of a library.
        yield from ((str(name.value), level) for name in names if isinstance(name, ast.Constant) for level in levels)


@pytest.mark.parametrize("of_consumer", [False, True], ids=["services", "consumer"])
def test_every_log_event_is_explained_and_every_one_explained_exists(*, of_consumer: bool) -> None:
    folders = ("deploy/consumer",) if of_consumer else ("services", "shared")
    found = {event for folder in folders for path in REPOSITORY.glob(f"{folder}/**/*.py") for event in logged(path)}
    parts = (REPOSITORY / "docs" / "log-events.md").read_text().split("## The reference consumer\n")
    rows = re.findall(r"^\| `([^`]+)` \| ([a-z, ]+) \|", parts[of_consumer], re.M)
    assert len(rows) == len({name for name, _ in rows})
    assert {(name, level) for name, levels in rows for level in levels.split(", ")} == found


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_make_target_in_a_document_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.M))
    named = {
        target
        for text in re.findall(r"`[^`]*`|^ {4}.*$", document.read_text(), re.M)
        for target in TARGET.findall(text)
    }
    drills = {f"drill-{drill.name}" for group in GROUPS for drill in group.drills}
    assert named <= targets | drills


def test_every_decision_is_listed_and_has_all_sections() -> None:
    index = (DECISIONS / "README.md").read_text()
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    numbers = [page.name[:4] for page in pages]  # assigned before pages are written, so some may be missing
    assert len(set(numbers)) == len(numbers)
    for page in pages:
        text = page.read_text()
        assert f"({page.name})" in index
        assert text.startswith(f"# {page.name[:4]}: ")
        parts = ["Context", "Decision", "Consequences", "What would change our mind"]
        assert re.findall(r"^## (.+)$", text, re.M) == parts, page.name
