"""How often the watermark is announced."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.relay.completeness import watermark as watermarks
from services.relay.completeness.store import WatermarkAdvance
from services.relay.completeness.watermark import MOVES_AFTER_CHANGE, Watermark
from services.relay.kafka.admin import Broker
from services.relay.settings import RelaySettings

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


async def test_repeated_announcement_does_not_count_as_a_time_after_the_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The offsets of the change may belong to events after its time: the times after it must be announced."""

    async def offsets(_: Any) -> dict[str, int]:
        return {"0": 5}

    async def announce(seconds: int) -> None:
        up_to = BEGAN + timedelta(seconds=seconds)
        await watermark._announce(WatermarkAdvance(1, up_to, [], 0), up_to, 4)

    class Producer:
        async def send_and_wait(self, *_: Any, headers: list[tuple[str, bytes]], **__: Any) -> None:
            announced.append(datetime.fromisoformat(dict(headers)["ce_time"].decode()))

    async def clients() -> tuple[Producer, None]:
        return Producer(), None

    announced: list[datetime] = []
    settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
    broker, pool = Broker(settings), None
    broker.topics_seen = True
    watermark: Any = Watermark(settings, pool, broker)  # type: ignore[arg-type] # not used
    watermark._leadership.certain_until = asyncio.get_running_loop().time() + 60
    watermark._open, watermark._offsets = clients, offsets
    await announce(0)
    with monkeypatch.context() as patch:
        patch.setattr(watermarks, "IDLE_SECONDS", 0.0)
        for _ in range(MOVES_AFTER_CHANGE):
            await announce(0)
    repeated = len(announced)
    for seconds in range(1, MOVES_AFTER_CHANGE + 3):
        await announce(seconds)
    expected = [BEGAN + timedelta(seconds=seconds) for seconds in range(1, MOVES_AFTER_CHANGE + 1)]
    assert announced[repeated:] == expected
