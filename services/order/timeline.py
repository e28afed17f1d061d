"""Builds an order's timeline from its sagas' rows and logs."""

from collections.abc import Mapping, Sequence
from typing import Any


def timeline(sagas: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of all sagas in order of time; `at` is RFC 3339.

    A saga logs its steps with each of its commits, so what it did since the last one shows after the next.
    """
    items: list[dict[str, Any]] = []
    for saga in sagas:
        attempt = f"attempt {saga['attempt']}" if saga["kind"] == "pay" else None
        aim = f"to become {saga['target']}" if saga["kind"] == "close" else attempt
        items.append(_item(saga["started_at"], saga["kind"], "started", aim))
        items += [_item(entry["at"], entry["step"], entry["outcome"], entry.get("detail")) for entry in saga["log"]]
        if saga["stuck"]:
            items.append(_item(saga["started_at"], saga["kind"], "stuck", "an undo keeps failing and is retried"))
        if saga["ended_at"] is not None:
            detail = saga["problem"]["detail"] if saga["problem"] else None
            items.append(_item(saga["ended_at"], saga["kind"], saga["status"].lower(), detail))
    return items


def _item(at: Any, step: str, outcome: str, detail: str | None) -> dict[str, Any]:
    return {"at": at, "step": step, "outcome": outcome, "detail": detail}
