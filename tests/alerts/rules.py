"""The rules for Prometheus, as they are deployed and with shorter windows, and what promtool says of them."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.infrastructure.missing import cannot_run

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = sorted(FOLDER.glob("rules/*.yml"))
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WINDOW = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])")
_FOR = re.compile(r"(?<=^        for: )(\d+)([smhd])$", re.M)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as a rule file describes it."""

    name: str
    expression: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def alerts() -> Iterator[Alert]:
    """Yield all alerts."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    yield Alert(rule["alert"], rule["expr"], rule["labels"], rule["annotations"])


def tool(name: str) -> str:
    """Return the path of a program of Debian's package `prometheus`. Without it the test is skipped; in CI it fails."""
    found = shutil.which(name)
    if found is None:
        cannot_run(f"{name} is missing: install `prometheus`")
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool, and return how it ended and what it printed."""
    command: Sequence[str | Path] = [tool("promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def scaled(text: str, factor: float, window_min_seconds: float, instead: Mapping[str, Mapping[str, str]]) -> str:
    """Return a rule file whose windows and delays are shorter by `factor`, and nothing else is different.

    `window_min_seconds`: a rate needs two samples in its window. `instead`: for some alerts, texts of their expression
    that are replaced, each exactly once: thresholds that would last too long.
    """

    def shorter(least: float) -> Any:
        return lambda found: f"{max(least, int(found[1]) * _UNITS[found[2]] / factor) * 1000:.0f}ms"

    for alert, texts in instead.items():
        head, name, rest = text.partition(f"- alert: {alert}\n")
        if not name:
            continue
        expression, end, rest = rest.partition("annotations:")
        for old, new in texts.items():
            assert expression.count(old) == 1, (alert, old)
            expression = expression.replace(old, new)
        text = head + name + expression + end + rest
    return _FOR.sub(shorter(0), _WINDOW.sub(shorter(window_min_seconds), text))


def configuration() -> Any:
    """Return prometheus.yml."""
    return yaml.safe_load((FOLDER / "prometheus.yml").read_text())
