"""The participants without HTTP: each answers a body of commands through a session to its database."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from pydantic import BaseModel

from services.balance import batch as balance_batch
from services.coupon import batch as coupon_batch
from services.order.saga import Participant
from services.product import batch as product_batch
from shared.contracts import commands as wire
from shared.participant.executor import CommandExecutor
from shared.participant.routes import UNKNOWN
from shared.postgres.connections import Session
from shared.refusals import Unavailable

Answer = tuple[int, bytes]

# Settings of an order process whose channels lead to these participants: a URL only names its participant.
PARTICIPANT_URLS: dict[str, Any] = {f"{place}_url": f"http://{place}" for place in Participant}
# Of each participant: its model of a body of commands, and its module that reads and executes a batch.
_CODE: Mapping[Participant, tuple[type[BaseModel], Any]] = {
    Participant.PRODUCT: (wire.ProductCommands, product_batch),
    Participant.COUPON: (wire.CouponCommands, coupon_batch),
    Participant.BALANCE: (wire.BalanceCommands, balance_batch),
}


def participant_at(url: str) -> Participant:
    """Return the participant that one of PARTICIPANT_URLS names."""
    return Participant(url.removeprefix("http://"))


class InProcessParticipant:
    """One participant: its code with a command executor. `options` are the executor's."""

    def __init__(self, place: Participant, session: Session, **options: Any) -> None:
        self._model, batch = _CODE[place]
        self._to_command = batch.to_command
        self._executor: CommandExecutor[Any] = CommandExecutor(session, batch.execute, batch.fast_path, **options)

    async def __aenter__(self) -> "InProcessParticipant":
        await self._executor.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._executor.__aexit__(*exc)

    async def answer(self, body: bytes) -> Answer:
        """Run the commands of a body and return the answer's status and body, as the service does."""
        batch: Any = self._model.model_validate_json(body)
        commands: Sequence[Any] = [self._to_command(command) for command in batch.commands]
        try:
            outcomes = await self._executor.run(commands)
        except Unavailable:
            return 503, b""
        return 200, orjson.dumps({"outcomes": [UNKNOWN if outcome is None else outcome.wire() for outcome in outcomes]})

    async def command(self, commands: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Run commands and return their outcomes; fail if one is unknown, which a deadlock would cause."""
        status, body = await self.answer(orjson.dumps({"commands": commands}))
        assert status == 200
        outcomes: list[Mapping[str, Any]] = orjson.loads(body)["outcomes"]
        assert UNKNOWN not in outcomes
        return outcomes


class Channel:
    """A process' channel to one of them, for services.order.engine.participants. `carry` delivers its bodies."""

    def __init__(self, carry: Callable[[Participant, bytes], Awaitable[Answer]], url: str) -> None:
        self._carry = carry
        self._place = participant_at(url)

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def post(self, body: bytes, _headers: Mapping[str, str]) -> Answer:
        """Send a batch; return the answer's status and body."""
        return await self._carry(self._place, body)
