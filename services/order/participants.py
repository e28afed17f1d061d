"""The order service's side of the participant protocol: one batch in flight to each participant."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import structlog
from prometheus_client import Counter, Histogram

from services.order.saga import Command, Participant
from shared import trace
from shared.batcher import Batcher
from shared.contracts.commands import COMMANDS_MAX, COMMANDS_PATH
from shared.participant import Outcome
from shared.refusals import Unavailable

log = structlog.get_logger()

CALL_TIMEOUT_SECONDS = 5.0  # past it the outcome counts as unknown, and the commands are repeated
QUEUE_MAX = 8192  # above the number of sagas that may run at once, three undos each
CALL_SECONDS = Histogram("participant_call_seconds", "Time of a call with a batch of commands", ["participant"])
CALL_FAILURES = Counter("participant_call_failures_total", "Calls whose outcomes stayed unknown", ["participant"])


class Participants:
    """Sends commands. An outcome is applied or refused; anything else is unknown and raises Unavailable."""

    def __init__(self, urls: Mapping[Participant, str]) -> None:
        self._clients = {participant: _Client(participant, url) for participant, url in urls.items()}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Participants":
        for client in self._clients.values():
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def send(self, command: Command) -> Outcome:
        """Send one command in the next batch. Raises Unavailable when its outcome is unknown."""
        return await self._clients[command.participant].batcher.submit(_Sent(command, trace.current.get()))

    def reachable(self) -> dict[str, bool]:
        """Say for each participant whether the last call got through."""
        return {participant.value: client.reachable for participant, client in self._clients.items()}


@dataclass(frozen=True, slots=True)
class _Sent:
    command: Command
    mark: trace.Trace | None


class _Client:
    def __init__(self, participant: Participant, url: str) -> None:
        self._url = url + COMMANDS_PATH
        self._participant = participant
        self._http: aiohttp.ClientSession | None = None
        self._seconds = CALL_SECONDS.labels(participant.value)
        self._failures = CALL_FAILURES.labels(participant.value)
        self.reachable = True
        self.batcher: Batcher[_Sent, Outcome] = Batcher(
            participant.value, self._call_all, batch_max=COMMANDS_MAX, queue_max=QUEUE_MAX
        )

    async def __aenter__(self) -> "_Client":
        self._http = aiohttp.ClientSession(
            # Shorter than the server's keep-alive, so that no call meets a connection that is being closed.
            connector=aiohttp.TCPConnector(limit=2, keepalive_timeout=10),
            timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_SECONDS, connect=CALL_TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json"},
            auto_decompress=False,
        )
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.batcher.__aexit__(*exc)
        if self._http is not None:
            await self._http.close()

    async def _call_all(self, sent: Sequence[_Sent]) -> Sequence[Outcome | BaseException]:
        """Call once; when the participant refuses the batch as a whole, once per command, so that a command it
        can't read does not hold up its neighbours."""
        try:
            return await self._call(sent)
        except _Rejected as error:
            log.warning("participant rejected a batch", participant=self._participant.value, error=str(error))
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
        assert self._http is not None
        body = orjson.dumps({"commands": [one.command.wire() for one in sent]})
        # A batch serves many requests; the first one's trace stands for it, every command names its own subject.
        mark = sent[0].mark or trace.take_over({})
        try:
            with self._seconds.time():
                async with self._http.post(self._url, data=body, headers=mark.headers()) as response:
                    raw = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.reachable = False
            self._failures.inc()
            raise Unavailable(f"The {self._participant} service did not answer: {type(error).__name__}") from error
        self.reachable = response.status < 500
        if response.status != 200:
            self._failures.inc()
            failure = _Rejected if 400 <= response.status < 500 else Unavailable
            raise failure(f"The {self._participant} service answered {response.status}.")
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
