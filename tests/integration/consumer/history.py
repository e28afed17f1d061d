"""A relay's history without a relay: which events it has of each order, and whether it still has an event's time."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from deploy.consumer.events import Event
from deploy.consumer.relay import Item, Relay


def item(event: Event, status: str = "SENT") -> Item:
    """Return an event as the relay's API shows it."""
    published = {"sha256": event.sha256.hex(), "data_base64": base64.b64encode(event.payload).decode()}
    return {
        "event_id": str(event.event_id),
        "order_id": str(event.order_id),
        "sequence": event.sequence,
        "type": event.type,
        "occurred_at": event.occurred_at.isoformat(),
        "status": status,
        **(published if status == "SENT" else {"sha256": None}),
    }


class History(Relay):
    """Answers as the relay's API does."""

    def __init__(self, items: Sequence[Item] = (), *, keeps: bool = True) -> None:
        self._items = items
        self._keeps = keeps
        self.asked: list[UUID] = []

    async def events_of_order(self, order_id: UUID) -> list[Any]:
        """Return the items of an order in sequence."""
        self.asked.append(order_id)
        own = [one for one in self._items if one["order_id"] == str(order_id)]
        return sorted(own, key=lambda one: int(one["sequence"]))

    async def keeps(self, _timestamp: datetime) -> bool:
        """Return the same for all times."""
        return self._keeps
