"""All places that name the version agree, and each changelog has its section."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from shared.process.build import VERSION

REPOSITORY = Path(__file__).parents[2]
CHANGELOGS = [REPOSITORY / "CHANGELOG.md", *sorted(REPOSITORY.glob("services/*/CHANGELOG.md"))]
MANIFESTS = sorted((REPOSITORY / "deploy").glob("kubernetes/**/*.yaml"))
TAG = re.compile(r"name: order-platform/\w+,.*newTag: ([\w.]+)")


def test_version_is_the_same_wherever_it_is_written() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    events = json.loads((REPOSITORY / "docs" / "schemas" / "asyncapi.json").read_text())["info"]["version"]
    readme = re.search(r"^Version (\S+)\. ", (REPOSITORY / "README.md").read_text(), re.M)
    assert readme is not None
    assert {project, events, readme[1]} == {VERSION}
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


@pytest.mark.parametrize("changelog", CHANGELOGS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_newest_section_of_each_changelog_is_that_of_the_version(changelog: Path) -> None:
    sections = re.findall(r"^## (.+)$", changelog.read_text(), re.M)
    assert sections[0] == VERSION
    assert len(set(sections)) == len(sections)


def test_manifests_ask_for_images_of_the_version() -> None:
    tags = {tag for manifest in MANIFESTS for tag in TAG.findall(manifest.read_text())}
    assert tags == {VERSION, "previous"}  # the operator replaces the second one, where an old version is drained
