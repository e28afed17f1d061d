"""Work for batchers under test."""

import asyncio
from collections.abc import Sequence


class Work:
    """Work that waits for the test, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Event()
        self.through = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        self.batches.append(list(items))
        self.started.set()
        await self.through.wait()
        return [ValueError(item) if item < 0 else item * 10 for item in items]
