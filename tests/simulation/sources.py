"""Replaces the product's clocks and random numbers by the virtual clock and the history's generator."""

import random
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog

import services.order.engine.runner
import shared.ids
import shared.postgres.clocks
from tests.simulation.invariants import ViolationError
from tests.simulation.world import World

# Log events by which the product reports a bug and then continues. Every log event with a traceback is one as well.
BUGS = ("saga.run_failed", "command.execution_failed", "undo.refused")

# The product's number takes half a minute of failures; a history has about twenty seconds of faults in all.
TRIES_BEFORE_STUCK = 4


@contextmanager
def virtual_sources(world: World) -> Iterator[None]:
    """Replace the standard library's clocks and random numbers where the product calls them.

    `shared.postgres.clocks` reads the virtual time: a process whose clock differs by minutes would start nothing. Wall
    clocks that are hours off make the ids. Timestamps in a saga's log stay real: no decision reads them, and no trace
    contains them.
    """
    rng = random.Random(world.seed)

    def nanoseconds() -> int:
        return int(world.wall_clock().timestamp() * 1000) * 1_000_000

    with (
        patch.object(shared.ids, "os", SimpleNamespace(urandom=rng.randbytes)),
        patch.object(shared.ids, "_pool", bytearray()),
        patch.object(shared.ids, "time", SimpleNamespace(time_ns=nanoseconds)),
        patch.object(shared.postgres.clocks, "time", SimpleNamespace(time=lambda: world.clock().timestamp())),
        patch.object(services.order.engine.runner, "random", SimpleNamespace(uniform=rng.uniform)),
        patch.object(services.order.engine.runner, "TRIES_BEFORE_STUCK", TRIES_BEFORE_STUCK),
        _bugs_end_the_history(world),
    ):
        yield


@contextmanager
def _bugs_end_the_history(world: World) -> Iterator[None]:
    def see(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event["event"] in BUGS or event.get("exc_info"):
            world.loop.fail(ViolationError(f"the product reports a bug: {event}"))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[see], wrapper_class=structlog.make_filtering_bound_logger(40), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
