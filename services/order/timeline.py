"""Builds an order's timeline from its sagas' rows and logs."""

from collections.abc import Mapping, Sequence
from typing import Any


def timeline(sagas: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of all sagas in order of time; `at` is in RFC 3339 format.

    A saga stores its log with each of its commits. So its steps since the last commit appear after the next one.
    """
    items: list[dict[str, Any]] = []
    for saga in sagas:
        attempt = f"attempt {saga['attempt']}" if saga["kind"] == "pay" else None
        aim = f"to become {saga['target']}" if saga["kind"] == "close" else attempt
        items.append(_item(saga["started_at"], saga["kind"], "started", aim))
        items += [_item(entry["at"], entry["step"], entry["outcome"], _detail(entry, saga)) for entry in saga["log"]]
        if saga["stuck"]:
            items.append(_item(saga["started_at"], saga["kind"], "stuck", "an undo keeps failing and is retried"))
        if saga["ended_at"] is not None:
            items.append(_item(saga["ended_at"], saga["kind"], saga["status"].lower(), _reason(saga)))
    return items


def _detail(entry: Mapping[str, Any], saga: Mapping[str, Any]) -> str | None:
    """Return an entry's detail. A refusal's is stored once, in the saga's problem."""
    detail: str | None = entry.get("detail")
    return _reason(saga) if detail is None and entry["outcome"] == "refused" else detail


def _reason(saga: Mapping[str, Any]) -> str | None:
    return saga["problem"]["detail"] if saga["problem"] else None


def _item(at: Any, step: str, outcome: str, detail: str | None) -> dict[str, Any]:
    return {"at": at, "step": step, "outcome": outcome, "detail": detail}
