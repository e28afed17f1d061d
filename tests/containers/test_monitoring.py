"""Prometheus of the profile `monitoring` reads the metrics of every replica."""

import json
import urllib.request
from collections import Counter
from typing import Any

from tests.containers.engine import Platform
from tests.infrastructure.waiting import wait_until

SCRAPED_SECONDS = 90  # names are looked up and targets are read every 15 s
REPLICAS = {"order": 2, "product": 1, "coupon": 1, "balance": 1, "relay": 2, "consumer": 1, "console": 1}


def ask(platform: Platform, path: str) -> dict[str, Any]:
    """Return what Prometheus' API answers."""
    url = f"http://127.0.0.1:{platform.environment['PROMETHEUS_PORT']}/api/v1/{path}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return dict(json.load(answer)["data"])


def test_prometheus_of_the_profile_reads_every_replica(platform: Platform) -> None:
    platform.compose("--profile", "monitoring", "up", "--detach", "--no-build", "--no-deps", "prometheus")

    def read() -> bool:
        try:
            targets = ask(platform, "targets?state=active")["activeTargets"]
        except OSError:
            return False
        return Counter(one["scrapePool"] for one in targets if one["health"] == "up") == REPLICAS

    wait_until(read, SCRAPED_SECONDS, "metrics of every replica")
    rules = [rule for group in ask(platform, "rules")["groups"] for rule in group["rules"]]
    assert rules
    assert not [rule for rule in rules if rule.get("lastError")]
