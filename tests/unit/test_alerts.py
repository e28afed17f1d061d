"""Each alert says how urgent it is and what is wrong, and has a page in the runbook; each page has its alert."""

import re
from pathlib import Path

import pytest

from tests.alerts.rules import Alert, alerts, scaled

REPOSITORY = Path(__file__).parents[2]
PAGES = REPOSITORY / "docs" / "runbook"
ALERTS = list(alerts())


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert sorted(alert.name for alert in ALERTS) == sorted(page.stem for page in PAGES.glob("*.md"))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_names_its_page_its_urgency_and_what_is_wrong(alert: Alert) -> None:
    assert alert.annotations["runbook_url"] == f"docs/runbook/{alert.name}.md"
    assert alert.labels["severity"] in ("page", "ticket")
    assert len(alert.annotations["summary"]) > 20


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_page_says_what_it_means_how_to_see_it_and_what_to_do(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.M) == ["How to see it", "What to do"]
    assert re.search(r"^```sh\n(?:.+\n)+```$", text.partition("## How to see it\n")[2], re.M)


def test_every_alert_is_listed_in_the_runbook() -> None:
    listed = re.findall(r"\[(\w+)\]\(runbook/(\w+)\.md\)", (REPOSITORY / "docs" / "runbook.md").read_text())
    assert sorted(listed) == sorted((alert.name, alert.name) for alert in ALERTS)


def test_scaled_rules_differ_in_windows_delays_and_named_thresholds_only() -> None:
    rules = """\
      - alert: One
        expr: rate(a[1h]) > 0 and b > 120
        for: 2m
        annotations: {summary: longer than 120}
      - alert: Two
        expr: rate(a[5m]) > 120
        annotations: {summary: longer than 120}
"""
    assert (
        scaled(rules, 60, 10, {"One": {"> 120": "> 5"}})
        == """\
      - alert: One
        expr: rate(a[60000ms]) > 0 and b > 5
        for: 2000ms
        annotations: {summary: longer than 120}
      - alert: Two
        expr: rate(a[10000ms]) > 120
        annotations: {summary: longer than 120}
"""
    )


def test_a_replaced_threshold_must_be_there() -> None:
    with pytest.raises(AssertionError):
        scaled("      - alert: One\n        expr: a > 1\n        annotations: {}\n", 60, 10, {"One": {"> 2": "> 1"}})
