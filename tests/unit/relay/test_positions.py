"""The search for the last committed number, backwards from the end of a shard's partition."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.positions import _search

PARTITION = TopicPartition("orders.v1.positions", 0)


class Log:
    """Stands in for a consumer: the partition has these committed values, and aborted records elsewhere."""

    def __init__(self, values: dict[int, bytes], *, first: int, end: int, high_water: int | None = None) -> None:
        self._values = values
        self._first, self._end = first, end
        self._high_water = end if high_water is None else high_water
        self._position = 0
        self.sought: list[int] = []

    async def beginning_offsets(self, _: object) -> dict[TopicPartition, int]:
        return {PARTITION: self._first}

    async def end_offsets(self, _: object) -> dict[TopicPartition, int]:
        return {PARTITION: self._end}

    def assign(self, _: object) -> None: ...

    def seek(self, _: object, offset: int) -> None:
        self.sought.append(offset)
        self._position = offset

    async def position(self, _: object) -> int:
        return self._position

    async def getmany(self, *_: object, **__: object) -> dict[TopicPartition, list[Any]]:
        begin, self._position = self._position, self._end
        offsets = sorted(offset for offset in self._values if offset >= begin)
        return {PARTITION: [SimpleNamespace(offset=offset, value=self._values[offset]) for offset in offsets]}

    def highwater(self, _: object) -> int:
        return self._high_water


async def search(log: Any) -> int | None:
    return await _search(log, PARTITION)


async def test_last_of_several_numbers_is_found_in_one_step() -> None:
    log = Log({95: b"6", 98: b"7"}, first=0, end=100)
    assert await search(log) == 7
    assert log.sought == [84]


async def test_number_behind_many_aborted_ones_is_found_in_a_few_growing_steps() -> None:
    log = Log({3: b"7"}, first=0, end=100_000)
    assert await search(log) == 7
    assert log.sought == [99_984, 99_728, 95_632, 30_096, 0]


async def test_partition_without_a_number_is_read_to_its_beginning_and_no_further() -> None:
    log = Log({}, first=90, end=110)
    assert await search(log) is None
    assert log.sought == [94, 90]


async def test_number_before_an_unsettled_transaction_is_not_trusted() -> None:
    with pytest.raises(BrokerFailed, match="unsettled"):
        await search(Log({98: b"7"}, first=0, end=100, high_water=101))
