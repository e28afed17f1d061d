"""Tells the parts of a process to stop, after a delay in which balancers notice that it is no longer ready."""

import asyncio

import structlog

log = structlog.get_logger()


class Stop(asyncio.Event):
    """Set when the process has to stop.

    Before that it is `announced`: the HTTP listeners report the process unready, still serve, and close each
    connection with its next answer. A balancer notices one of the two, and no longer sends requests when the listeners
    close.
    """

    def __init__(self, delay_seconds: float = 0.0) -> None:
        super().__init__()
        self._delay_seconds = delay_seconds
        self.announced = False
        self.listening = False  # set by the listeners: before that, there is no client for whom to wait

    def request(self) -> None:
        """Announce the stop, and set this after the delay. A second request, or one during the start, sets it now."""
        if self.announced or not self.listening or not self._delay_seconds:
            self.set()
            return
        self.announced = True
        log.info("process.stopping", seconds=self._delay_seconds)
        asyncio.get_running_loop().call_later(self._delay_seconds, self.set)

    def set(self) -> None:
        """Stop now."""
        self.announced = True
        super().set()
