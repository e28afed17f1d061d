"""A partition that is in use is dropped later."""

from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from services.relay import metrics, outbox_cleaner, store


async def test_drop_of_a_partition_in_use_is_postponed_and_the_outbox_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None: ...

    async def drop(*_: Any) -> None:
        raise asyncpg.LockNotAvailableError

    async def partitions(*_: Any) -> Mapping[str, int]:
        return {"attached": 5, "oldest_seconds": 60, "kept": 0}

    monkeypatch.setattr(store, "rotate_outbox", nothing)
    monkeypatch.setattr(store, "note_published", nothing)
    monkeypatch.setattr(store, "drop_published", drop)
    monkeypatch.setattr(store, "outbox_partitions", partitions)
    before = metrics.DROPS_PUT_OFF._value.get()
    metrics.PARTITIONS.set(0)
    connection: Any = None
    await outbox_cleaner.clean(connection, 300, 3600)
    assert metrics.DROPS_PUT_OFF._value.get() == before + 1
    assert metrics.PARTITIONS._value.get() == 5
