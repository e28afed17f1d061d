"""A fault, and the alerts that it fires."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.alerts import rules
from tests.alerts.faults.platform import Platform
from tests.alerts.faults.prometheus import Labels


@dataclass(frozen=True, slots=True)
class Situation:
    """What is wrong, how it is made and healed, and the alerts with the labels that their expressions give them.

    `fault` makes the fault for the time of its body, and heals it. In labels, `{coupon}` is a process' address as
    Prometheus knows it; `{certificate}` and `{key}` are the spare replica's files.
    """

    what: str
    fault: Callable[[Platform], AbstractAsyncContextManager[None]]
    alerts: Mapping[str, Labels]

    def labels(self, platform: Platform) -> dict[str, Labels]:
        """Return each alert's complete labels."""
        severities = {alert.name: alert.labels for alert in rules.alerts()}
        return {
            name: {
                "alertname": name,
                **severities[name],
                **{label: value.format_map(platform.places) for label, value in labels.items()},
            }
            for name, labels in self.alerts.items()
        }
