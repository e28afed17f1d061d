"""What is shorter here than in production: the rules' windows, and the intervals at which services measure.

As a program: `python -m tests.alerts.faults.scale services.relay` runs a service with these intervals.
"""

import importlib
import runpy
import sys
from collections.abc import Mapping

FACTOR = 600  # six hours become 36 s
WINDOW_MIN_SECONDS = 4.0  # a rate needs two samples in its window, also when one scrape fails
SCRAPE_SECONDS = 1.0
EVALUATE_SECONDS = 0.5

# Thresholds that a fault would need minutes, ten thousand events or ten gigabytes to exceed.
THRESHOLDS: Mapping[str, Mapping[str, str]] = {
    "SagasOld": {"> 60": "> 3"},
    "ExpiryBehind": {"> 60": "> 3"},
    "AuditSilent": {"> 120": "> 10"},
    "EventsUnpublished": {"> 30": "> 3"},
    "WatermarkBehind": {"> 60": "> 6"},
    "OutboxNotCleaned": {"> 600": "> 6"},
    "WalKept": {"10 * 1024 ^ 3": "16 * 1024 ^ 2"},
    "IssuerKeysOld": {"> 900": "> 6"},
    "ConsumerBehind": {"> 10000": "> 50"},
}

# Module by module, the constants that are intervals. A service imports no other service's modules.
_INTERVALS: Mapping[str, Mapping[str, float]] = {
    "services.order.backlog": {"INTERVAL_SECONDS": 0.5},
    "services.relay.metrics": {"BACKLOG_INTERVAL_SECONDS": 0.5},
    "services.relay.outbox_cleaner": {"INTERVAL_SECONDS": 1.0, "LEASE_SECONDS": 3.0},
    "shared.identity.keys": {"LOOK_SECONDS": 0.2, "REFRESH_SECONDS": 2.0},
    "shared.postgres.connections": {"REPLAN_SECONDS": 1.0},
}


def shorten(service: str) -> None:
    """Set the intervals of the modules of `services.<name>`, and of what is shared."""
    for name, constants in _INTERVALS.items():
        if name.startswith((f"{service}.", "shared.")):
            module = importlib.import_module(name)
            for constant, seconds in constants.items():
                assert getattr(module, constant) > seconds, f"{name}.{constant}"
                setattr(module, constant, seconds)


if __name__ == "__main__":
    shorten(sys.argv[1])
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
