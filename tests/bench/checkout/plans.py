"""Divides the time of statements by table, from the plans that auto_explain samples.

A statement that writes both an order and its saga is for both: how much for which is in the times of its nodes.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from tests.bench.checkout.purposes import OTHER, normalised, of_relation

SETTINGS = (
    "auto_explain.log_analyze=on",
    "auto_explain.log_timing=on",
    "auto_explain.log_triggers=on",
    "auto_explain.log_format=json",
    "auto_explain.log_nested_statements=on",
    "auto_explain.log_parameter_max_length=0",
)
SAMPLE_RATE = 0.1  # of a service's statements: hundreds per second, at a small cost for timing

_PLAN = re.compile(r"LOG:  duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)")


def sampled(log: str) -> Iterator[Mapping[str, Any]]:
    """Return the plans in a server's log."""
    for match in _PLAN.finditer(log):
        text = match[1].replace("\n\t", "\n")
        try:
            yield json.loads(text)
        except json.JSONDecodeError:  # the server was still writing the line
            continue


def shares(plans: Iterator[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return for each query text the shares of its time by purpose."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for plan in plans:
        by_purpose = sums[plan["Query Text"]]
        for trigger in plan.get("Triggers", ()):
            by_purpose[of_relation(trigger.get("Relation", ""))] += trigger["Time"]
        for relation, milliseconds in own_times(plan["Plan"], ""):
            by_purpose[of_relation(relation)] += milliseconds
    return {query: normalised(by_purpose) or {OTHER: 1.0} for query, by_purpose in sums.items()}


def own_times(node: Mapping[str, Any], above: str) -> Iterator[tuple[str, float]]:
    """Yield each node's own time in ms with its table, or else the table of the node above."""
    relation = str(node.get("Relation Name", above))
    children = node.get("Plans", ())
    own = _time(node) - sum(_time(child) for child in children if child.get("Parent Relationship") != "InitPlan")
    yield relation, max(own, 0.0)
    for child in children:
        yield from own_times(child, relation)


def _time(node: Mapping[str, Any]) -> float:
    return float(node.get("Actual Total Time", 0.0)) * float(node.get("Actual Loops", 1))
