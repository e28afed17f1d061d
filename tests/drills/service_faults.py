"""Faults of the services' processes: stopped or killed, and started again."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol

from tests.drills.drill import Drill, now
from tests.drills.platform import Platform
from tests.faults.process import Process

# Both order replicas are the same; a customer reaches the other one meanwhile.
TARGETS = ("order-1", "product", "coupon", "balance", "relay", "consumer")


class Processes(Protocol):
    """What has processes with names."""

    def process(self, name: str) -> Process:
        """Return one of them."""


def ended(name: str, number: signal.Signals) -> Callable[[Processes], Awaitable[float]]:
    """Return the fault of a process that gets a signal and is started again when it has ended."""

    async def strike(platform: Processes) -> float:
        process = platform.process(name)
        began = now()
        process.send(number)
        status = await process.ended()
        assert status in (0, -signal.SIGKILL), status
        process.start()
        return began

    return strike


def _drills() -> list[Drill[Platform]]:
    drills: list[Drill[Platform]] = []
    for name in TARGETS:
        service = name.partition("-")[0]
        one = "one of two replicas" if service == "order" else "its only process"
        # Its callers repeat what fails, and the other order replica is asked on a refused connection.
        drills += [
            Drill(
                f"restart-{service}",
                f"SIGTERM to {one}, started again",
                ended(name, signal.SIGTERM),
                failed_max=0,
                in_short=service == "order",
            ),
            Drill(
                f"kill-{service}",
                f"SIGKILL of {one}, started again",
                ended(name, signal.SIGKILL),
                # What was in flight at a killed order process has no answer; the customer repeats it.
                failed_max=None if service == "order" else 0,
                in_short=service in ("order", "relay"),
            ),
        ]
    return drills


async def all_killed(platform: Platform) -> float:
    """Kill every service at once, and start them again."""
    began = now()
    for name in platform.cluster.processes:
        platform.process(name).send(signal.SIGKILL)
    await asyncio.gather(*(process.ended() for process in platform.cluster.processes.values()))
    for process in platform.cluster.processes.values():
        process.start()
    return began


DRILLS = [*_drills(), Drill("kill-everything", "SIGKILL of all services at once, started again", all_killed)]
