"""The order service's side of the participant protocol: one batch in flight to each participant."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import aiohttp
import orjson
import structlog
from prometheus_client import Counter, Histogram

from services.order.saga import Command, Participant
from shared import trace
from shared.batcher import Batcher
from shared.contracts.commands import COMMANDS_MAX, COMMANDS_PATH
from shared.pacing import BatchScheduler
from shared.participant.protocol import Outcome
from shared.refusals import Unavailable

log = structlog.get_logger()

CALL_TIMEOUT_SECONDS = 5.0  # past it the outcome counts as unknown, and the commands are repeated
QUEUE_MAX = 8192  # above the number of sagas that may run at once, three undos each
CALL_SECONDS = Histogram("participant_call_seconds", "Time of a call with a batch of commands", ["participant"])
CALL_FAILURES = Counter("participant_call_failures_total", "Calls whose outcomes stayed unknown", ["participant"])


class Channel(Protocol):
    """A transport to one participant. If it raises, the outcomes are unknown."""

    async def __aenter__(self) -> "Channel": ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a batch; return the answer's status and body. Raises TimeoutError, OSError or aiohttp.ClientError."""


class HttpChannel:
    """A transport over HTTP, with its own connections."""

    def __init__(self, url: str) -> None:
        self._url = url + COMMANDS_PATH
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "HttpChannel":
        self._http = aiohttp.ClientSession(
            # Shorter than the server's keep-alive, so that no call meets a connection that is being closed.
            connector=aiohttp.TCPConnector(limit=2, keepalive_timeout=10),
            timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_SECONDS, connect=CALL_TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    async def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a batch; return the answer's status and body."""
        assert self._http is not None
        async with self._http.post(self._url, data=body, headers=headers) as response:
            return response.status, await response.read()


class Participants:
    """Sends commands. An outcome is applied or refused; anything else is unknown and raises Unavailable."""

    def __init__(
        self,
        urls: Mapping[Participant, str],
        channel: Callable[[str], Channel] = HttpChannel,
        *,
        scheduler: BatchScheduler | None = None,
    ) -> None:
        self._clients = {name: _Client(name, channel(url), scheduler) for name, url in urls.items()}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Participants":
        for client in self._clients.values():
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def send(self, command: Command) -> Awaitable[Outcome]:
        """Send one command in the next batch; its outcome is awaited, and raises Unavailable when it is unknown."""
        batcher = self._clients[command.participant].batcher
        try:
            return batcher.submit((command, trace.current.get()))
        except Unavailable as full:
            refused: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            refused.set_exception(full)
            return refused

    def reachable(self) -> dict[str, bool]:
        """Say for each participant whether the last call got through."""
        return {participant.value: client.reachable for participant, client in self._clients.items()}


_Sent = tuple[Command, trace.Trace | None]


class _Client:
    def __init__(self, participant: Participant, channel: Channel, scheduler: BatchScheduler | None) -> None:
        self._participant = participant
        self._channel = channel
        self._seconds = CALL_SECONDS.labels(participant.value)
        self._failures = CALL_FAILURES.labels(participant.value)
        self.reachable = True
        self.batcher: Batcher[_Sent, Outcome] = Batcher(
            participant.value, self._call_all, batch_max=COMMANDS_MAX, queue_max=QUEUE_MAX, scheduler=scheduler
        )

    async def __aenter__(self) -> "_Client":
        await self._channel.__aenter__()
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        # The channel first: no saga waits for an outcome any more, and a hanging participant must not delay the stop.
        await self._channel.__aexit__(*exc)
        await self.batcher.__aexit__(*exc)

    async def _call_all(self, sent: Sequence[_Sent]) -> Sequence[Outcome | BaseException]:
        """Call once; when the participant refuses the batch as a whole, once per command, so that a command it
        can't read does not hold up its neighbours."""
        try:
            return await self._call(sent)
        except _Rejected as error:
            log.warning("participant.batch_rejected", participant=self._participant.value, error=str(error))
            if len(sent) == 1:
                return [error]
        results: list[Outcome | BaseException] = []
        for one in sent:
            try:
                results.extend(await self._call([one]))
            except Unavailable as error:
                results.append(error)
        return results

    async def _call(self, sent: Sequence[_Sent]) -> Sequence[Outcome | BaseException]:
        body = orjson.dumps({"commands": [command.wire() for command, _ in sent]})
        # A batch serves many requests; the first one's trace stands for it, every command names its own subject.
        mark = sent[0][1] or trace.take_over({})
        try:
            with self._seconds.time():
                status, raw = await self._channel.post(body, mark.headers())
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.reachable = False
            self._failures.inc()
            raise Unavailable(f"The {self._participant} service did not answer: {type(error).__name__}") from error
        self.reachable = status < 500
        if status != 200:
            self._failures.inc()
            failure = _Rejected if 400 <= status < 500 else Unavailable
            raise failure(f"The {self._participant} service answered {status}.")
        return _outcomes(raw, len(sent))


class _Rejected(Unavailable):
    """The participant does not understand the batch: a difference of versions, or a bug."""


def _outcomes(raw: bytes, count: int) -> Sequence[Outcome | BaseException]:
    try:
        items = orjson.loads(raw)["outcomes"]
        if len(items) != count:
            raise ValueError
        return [_outcome(item) for item in items]
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("The participant's answer could not be read.") from error


def _outcome(item: Mapping[str, Any]) -> Outcome | Unavailable:
    if item["outcome"] == "applied":
        return Outcome(True, item["result"])
    if item["outcome"] == "refused":
        return Outcome(False, item["problem"])
    return Unavailable("The participant does not know what became of the command.")
