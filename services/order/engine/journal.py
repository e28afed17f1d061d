"""Collects the log entries of a saga until its next commit, and measures how long outcomes stayed unknown."""

import time
from datetime import UTC, datetime
from functools import cache
from typing import Any

from prometheus_client import Counter, Histogram

from services.order.saga import Command
from shared.participant.protocol import Outcome

CERTAINTY_SECONDS = Histogram(
    "command_certainty_seconds",
    "Time from a command's first sending until its outcome was known",
    ["command"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
RETRIES = Counter("saga_retries_total", "Commands repeated because their outcome was unknown", ["command"])
_certainty_seconds = cache(CERTAINTY_SECONDS.labels)  # the lookup takes longer than the observation


class Journal:
    """A saga's log entries since its last commit. An unknown outcome is one entry, even if the command is repeated."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._asked_at: dict[str, float] = {}

    @property
    def entries(self) -> tuple[dict[str, Any], ...]:
        """Return the entries, each with `at`, `step` and `outcome`, and sometimes `detail`."""
        return tuple(self._entries)

    def asked(self, command: Command) -> None:
        """Record that a command is sent; only its first sending counts."""
        self._asked_at.setdefault(command.type, time.monotonic())

    def known(self, command: Command, outcome: Outcome) -> None:
        """Record an outcome."""
        asked_at = self._asked_at.pop(command.type)
        _certainty_seconds(command.type).observe(time.monotonic() - asked_at)
        detail = None if outcome.applied else outcome.body.get("detail")
        self._add(command, "applied" if outcome.applied else "refused", detail)

    def unknown(self, command: Command, reason: str) -> None:
        """Record that an outcome is not known yet."""
        RETRIES.labels(command.type).inc()
        if not any(entry["step"] == command.type and entry["outcome"] == "unknown" for entry in self._entries):
            self._add(command, "unknown", reason)

    def committed(self) -> None:
        """Remove the entries, because they are stored."""
        self._entries.clear()

    def _add(self, command: Command, outcome: str, detail: str | None) -> None:
        entry = {"at": datetime.now(UTC), "step": command.type, "outcome": outcome}
        self._entries.append(entry if detail is None else {**entry, "detail": detail})
