"""The participants without their HTTP: what a body of commands is answered, from a session to its database."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from shared.postgres import Session
from shared.refusals import Unavailable

Answer = tuple[int, bytes]

# Settings of an order process whose channels lead to desks: each participant's URL only names it.
DESK_URLS: dict[str, Any] = {f"{place}_url": f"http://{place}" for place in Participant}


def place_at(url: str) -> Participant:
    """The participant that one of DESK_URLS names."""
    return Participant(url.removeprefix("http://"))


@dataclass(frozen=True, slots=True)
class Trade:
    """What one kind of participant does: its wire model, how it reads one command, and how it executes a batch,
    or applies part of it at once."""

    batch: type[BaseModel]
    to_command: Callable[[Any], Any]
    execute: Callable[..., Any]
    fast_path: Callable[..., Any]


def _trade(model: type[BaseModel], batch: Any) -> Trade:
    return Trade(model, batch.to_command, batch.execute, batch.fast_path)


TRADES = {
    Participant.PRODUCT: _trade(wire.ProductCommands, product_batch),
    Participant.COUPON: _trade(wire.CouponCommands, coupon_batch),
    Participant.BALANCE: _trade(wire.BalanceCommands, balance_batch),
}


class Desk:
    """A participant's command executor."""

    def __init__(self, place: Participant, session: Session) -> None:
        self._trade = TRADES[place]
        self._desk: CommandExecutor[Any] = CommandExecutor(session, self._trade.execute, self._trade.fast_path)

    async def __aenter__(self) -> "Desk":
        await self._desk.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._desk.__aexit__(*exc)

    async def answer(self, body: bytes) -> Answer:
        """Run the commands of a body and return the answer's status and body, as the service does."""
        batch: Any = self._trade.batch.model_validate_json(body)
        commands: Sequence[Any] = [self._trade.to_command(command) for command in batch.commands]
        try:
            outcomes = await self._desk.run(commands)
        except Unavailable:
            return 503, b""
        return 200, orjson.dumps({"outcomes": [UNKNOWN if told is None else told.wire() for told in outcomes]})
