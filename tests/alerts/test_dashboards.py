"""The dashboards are what their description says."""

import json
import subprocess
from pathlib import Path

import pytest

from deploy.grafana.panels import PAGES, Page
from tests.infrastructure.stack import REPOSITORY

DASHBOARDS = REPOSITORY / "deploy" / "grafana" / "dashboards"


def test_dashboards_are_those_of_their_description(tmp_path: Path) -> None:
    python = REPOSITORY / ".venv-grafana" / "bin" / "python"
    subprocess.run([python, "-m", "deploy.grafana", tmp_path], cwd=REPOSITORY, check=True)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in DASHBOARDS.iterdir()}, "run `make dashboards`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_dashboard_has_every_panel_with_its_queries_and_its_own_place(page: Page) -> None:
    found = json.loads((DASHBOARDS / f"{page.name}.json").read_text())
    panels = [one for one in found["panels"] if one["type"] != "row"]
    described = [one for row in page.rows.values() for one in row]
    assert [one["title"] for one in panels] == [one.title for one in described]
    assert [[target["expr"] for target in one["targets"]] for one in panels] == [
        [query.expression for query in one.queries] for one in described
    ]
    assert {one["datasource"]["uid"] for one in panels} == {"prometheus"}
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in found["panels"]]
    assert len(set(places)) == len(places)
