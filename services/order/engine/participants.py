"""The order service's side of the participant protocol: one batch in flight to each participant."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Protocol

import aiohttp
import orjson
import structlog
from prometheus_client import Counter, Histogram

from services.order.saga import Command
from shared.batcher import Batcher
from shared.contracts.commands import COMMANDS_MAX, COMMANDS_PATH
from shared.identity.secrets import Credential
from shared.pacing import BatchScheduler
from shared.participant.protocol import Outcome
from shared.process import trace
from shared.refusals import Unavailable
from shared.tls import ClientTls
from shared.tracing import spans
from shared.tracing.spans import Span

log = structlog.get_logger()

CALL_TIMEOUT_SECONDS = 5.0  # past it the outcome counts as unknown, and the commands are repeated
REACHABLE_SECONDS = 30.0  # an older call says nothing of a participant: on an idle replica, it may be hours old
QUEUE_MAX = 8192  # more than three undos for each saga that may run at the same time
CALL_SECONDS = Histogram("participant_call_seconds", "Time of a call with a batch of commands", ["participant"])
CALL_FAILURES = Counter("participant_call_failures_total", "Calls whose outcomes stayed unknown", ["participant"])


class Channel(Protocol):
    """A transport to one participant. If a call raises, the outcomes are unknown."""

    async def __aenter__(self) -> "Channel": ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a batch; return the answer's status and body. Raises TimeoutError, OSError or aiohttp.ClientError."""


class HttpChannel:
    """A transport over HTTP, with its own connections. `tls` gives the context for a call to an https URL."""

    def __init__(self, url: str, tls: ClientTls = lambda: True) -> None:
        self._url = url + COMMANDS_PATH
        self._tls = tls
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
        async with self._http.post(self._url, data=body, headers=headers, ssl=self._tls()) as response:
            return response.status, await response.read()


class Participants:
    """Sends commands. An outcome is applied or refused; an unknown outcome raises Unavailable."""

    def __init__(
        self,
        urls: Mapping[str, str],
        channel: Callable[[str], Channel] = HttpChannel,
        *,
        credentials: Mapping[str, Credential] | None = None,
        scheduler: BatchScheduler | None = None,
    ) -> None:
        """`urls` and `credentials`: by place, which is a participant or one of several product shards."""
        known = credentials or {}
        self._clients = {
            name: _Client(name, channel(url), known.get(name, dict), scheduler) for name, url in urls.items()
        }
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Participants":
        for client in self._clients.values():
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def send(self, command: Command) -> Awaitable[Outcome]:
        """Send one command in the next batch and return its outcome. Raises Unavailable if the outcome is unknown."""
        batcher = self._clients[command.participant].batcher
        span = spans.current.get().child(command.type)
        try:
            sent = batcher.submit((command, trace.current.get()), span)
        except Unavailable as full:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(full)
        if span.recorded:
            sent.add_done_callback(partial(_end, span))
        return sent

    def reachable(self) -> dict[str, bool | None]:
        """Return for each place whether the last call succeeded; None if it is too long ago to say anything."""
        return {str(place): client.reachable for place, client in self._clients.items()}


def _end(span: Span, sent: "asyncio.Future[Outcome]") -> None:
    """End the span of a command by its outcome. An unknown one is an error, and the next try has a span of its own."""
    if sent.cancelled():
        span.fail("cancelled")
    elif (error := sent.exception()) is not None:
        span.fail(error)
    else:
        span.set({"outcome": "applied" if sent.result().applied else "refused"})
    span.end()


_Sent = tuple[Command, trace.Trace | None]


class _Client:
    def __init__(self, place: str, channel: Channel, credential: Credential, scheduler: BatchScheduler | None) -> None:
        self._place = place
        self._channel = channel
        self._credential = credential
        self._seconds = CALL_SECONDS.labels(place)
        self._failures = CALL_FAILURES.labels(place)
        self._called: tuple[bool, float] | None = None  # whether the last call succeeded, and when it ended
        self.batcher: Batcher[_Sent, Outcome] = Batcher(
            str(place),
            self._call_all,
            batch_max=COMMANDS_MAX,
            queue_max=QUEUE_MAX,
            scheduler=scheduler,
            span_kind="client",
        )

    async def __aenter__(self) -> "_Client":
        await self._channel.__aenter__()
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        # First the channel: no saga waits for an outcome any more, and a hanging participant must not delay the stop.
        await self._channel.__aexit__(*exc)
        await self.batcher.__aexit__(*exc)

    @property
    def reachable(self) -> bool | None:
        """Return whether the last call succeeded; None if there was none within REACHABLE_SECONDS."""
        if self._called is None or asyncio.get_running_loop().time() - self._called[1] > REACHABLE_SECONDS:
            return None
        return self._called[0]

    async def _call_all(self, sent: Sequence[_Sent]) -> Sequence[Outcome | BaseException]:
        """Send a batch in one call. If the participant refuses the whole batch, send each command alone: a command that
        it cannot read must not block the others."""
        try:
            return await self._call(sent)
        except _Rejected as error:
            log.warning("participant.batch_rejected", participant=str(self._place), error=str(error))
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
        # A batch serves many requests: it carries the first one's trace, and every command names its own order. If one
        # of them is recorded, it carries that one's.
        mark = sent[0][1] or trace.from_headers({})
        try:
            with self._seconds.time():
                headers = {**mark.headers(), **spans.headers(), **self._credential()}
                status, raw = await self._channel.post(body, headers)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._called = (False, asyncio.get_running_loop().time())
            self._failures.inc()
            raise Unavailable(f"The {self._place} service did not answer.") from error
        self._called = (status < 500, asyncio.get_running_loop().time())
        if status != 200:
            self._failures.inc()
            failure = _Rejected if 400 <= status < 500 else Unavailable
            raise failure(f"The {self._place} service answered {status}.")
        return _outcomes(raw, len(sent))


class _Rejected(Unavailable):
    """The participant does not understand the batch, because its version differs or there is a bug."""


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
    problem = item.get("problem") or {}
    return Unavailable(problem.get("detail", "The participant does not know what became of the command."))
