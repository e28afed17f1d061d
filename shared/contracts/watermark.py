"""Defines the watermark event, version 1: up to which time the topic is complete. Only optional fields may be added."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from shared.contracts.types import Wire

WATERMARK = "order.watermark.v1"
SOURCE = "/services/relay"

Offset = Annotated[int, Field(ge=0)]


class Missing(Wire):
    """An event that was committed and is not published: it is parked, until an operator acts."""

    order_id: UUID
    sequence: Annotated[int, Field(ge=1)]


class OrderWatermark(Wire):
    """Every event that was committed up to a moment is published."""

    up_to: Annotated[datetime, Field(description="all events with a ce_time up to here are published")]
    topic: str
    partitions: Annotated[
        Mapping[str, Offset],
        Field(description="by partition, the offset that a reader has to have come to, to have read them all"),
    ]
    missing: Annotated[Sequence[Missing], Field(description="the exceptions, 100 at the most")]
    missing_count: Annotated[int, Field(ge=0, description="how many exceptions there are")]
