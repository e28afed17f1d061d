"""Where the product's time and chance come from during a history: the virtual clock and the history's dice."""

import random
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog

import services.order.engine.runner
import shared.host_clock
import shared.ids
from tests.simulation.books import ViolationError
from tests.simulation.world import World

# What the product logs when it meets a bug of its own and goes on as well as it can, besides what has a trace.
BUGS = ("saga.run_failed", "command failed", "undo.refused")

# The product's is about forty seconds of failures; a history has some twenty seconds of trouble in all.
TRIES_BEFORE_STUCK = 4


@contextmanager
def virtual_sources(world: World) -> Iterator[None]:
    """Replace the standard library's clocks and dice where the product asks them; no code of ours is replaced.

    The host's clock that is compared with the database's agrees with it: a process whose clock is off by minutes would
    start nothing. Ids are made by clocks that are hours off.

    What only ends up in a saga's log keeps the true time: no decision reads it, and no trace shows it.
    """
    dice = random.Random(world.seed)

    def nanoseconds() -> int:
        return int(world.wall_clock().timestamp() * 1000) * 1_000_000

    with (
        patch.object(shared.ids, "os", SimpleNamespace(urandom=dice.randbytes)),
        patch.object(shared.ids, "_pool", bytearray()),
        patch.object(shared.ids, "time", SimpleNamespace(time_ns=nanoseconds)),
        patch.object(shared.host_clock, "time", SimpleNamespace(time=lambda: world.clock().timestamp())),
        patch.object(services.order.engine.runner, "random", SimpleNamespace(uniform=dice.uniform)),
        patch.object(services.order.engine.runner, "TRIES_BEFORE_STUCK", TRIES_BEFORE_STUCK),
        _bugs_end_the_history(world),
    ):
        yield


@contextmanager
def _bugs_end_the_history(world: World) -> Iterator[None]:
    def see(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event["event"] in BUGS or event.get("exc_info"):
            world.loop.fail(ViolationError(f"the product met a bug: {event}"))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[see], wrapper_class=structlog.make_filtering_bound_logger(40), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
