"""A command line takes what the API takes, and says in a line what it does not take."""

import argparse
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.order.admin.api import AgeSeconds
from services.relay.replay.api import Topic
from shared.contracts.types import Id, Name
from shared.notation import Timestamp, Uuid
from shared.operators import argument

ID = "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Uuid, ID, UUID(ID)),
        (Timestamp, "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (AgeSeconds, "2.5", 2.5),
        (int, "1", 1),
        (Name, "the clock of the host was wrong", "the clock of the host was wrong"),
        (Topic, "orders.again", "orders.again"),
    ],
)
def test_an_argument_becomes_its_value(kind: Any, text: str, value: Any) -> None:
    assert argument(kind)(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Uuid, text) for text in (f"urn:uuid:{ID}", f"{{{ID}}}", ID.replace("-", ""))),
        *((Timestamp, text) for text in ("20300101", "0", "1893456000", "2030-01-01", "2030-01-01T00:00:00", "now")),
        *((AgeSeconds, text) for text in ("inf", "nan", "-1", "1e300", "1_0", " 1", "1e9999")),
        *((int, text) for text in ("1_0", "1.0", "+1", "\u0661", "")),
        *((Name, text) for text in ("", "x" * 201, "a\nb", "\udcff")),
        *((Id, text) for text in ("", "x" * 129, "a\x1b[2J")),
        *((Topic, text) for text in ("a/b", "orders\n", "")),
    ],
)
def test_an_argument_that_the_api_refuses_is_refused(kind: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        argument(kind)(text)
    assert "\n" not in str(refused.value)
