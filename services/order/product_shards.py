"""Which product service has which product; how a command for several of them is split, and its outcomes merged. Pure.

A *product shard* is one product service with a database of its own. Each owns some of the slots, and a product belongs
to the shard that owns the slot of its id. With one product service, nothing here is called for a checkout.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from services.order.domain import Line
from services.order.saga import HOLD, Command, Participant, PartlyRefused
from shared.contracts.refusals import ProductNotFound
from shared.fast_dataclass import replace
from shared.participant.protocol import Outcome, is_fenced
from shared.slots import SLOTS, slot_of

_NOT_FOUND: Final = f"/problems/{ProductNotFound.slug}"


class ProductShards:
    """The place of each product. A place is the name of one service: of a participant, or of one product shard."""

    def __init__(self, owners: Sequence[str]) -> None:
        """`owners`: the place of each slot."""
        assert len(owners) == SLOTS
        self._owners = tuple(owners)
        self.places: tuple[str, ...] = tuple(dict.fromkeys(owners))

    @property
    def several(self) -> tuple[str, ...]:
        """Return the places of the product shards; none if there is one product service."""
        return self.places if len(self.places) > 1 else ()

    @property
    def all_places(self) -> tuple[str, ...]:
        """Return the places of all participants."""
        return (*self.places, Participant.COUPON, Participant.BALANCE)

    def place_of(self, product_id: str) -> str:
        """Return the place of a product."""
        return self._owners[slot_of(product_id)]

    def divide(self, units: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Return units of products by place."""
        divided: dict[str, dict[str, int]] = {}
        for product_id, quantity in units.items():
            divided.setdefault(self.place_of(product_id), {})[product_id] = quantity
        return divided

    def split(self, command: Command) -> list[Command]:
        """Return the parts of a product command, each addressed to its place. An undo goes where the hold went.

        It names the products, so that a shard without them does not apply it: the hold would stay at another one.
        """
        by_place: dict[str, list[Line]] = {}
        for line in command.lines:
            by_place.setdefault(self.place_of(line.product_id), []).append(line)
        assert by_place, "a product command without lines has no place"
        parts = []
        for place, lines in by_place.items():
            fields: dict[str, Any] = {"product_ids": [line.product_id for line in lines]}
            if command.type == HOLD.do:
                fields = {"lines": [line.wish() for line in lines]}
            parts.append(replace(command, participant=place, fields=fields, lines=tuple(lines)))
        return parts


# With one product service, its place is the participant itself.
ONE_PRODUCT_SERVICE: Final = ProductShards([Participant.PRODUCT] * SLOTS)


def participant_at(place: str) -> Participant:
    """Return the participant of a place."""
    return Participant(place.partition("-")[0])


def shard_of(command: Command) -> dict[str, str]:
    """Return the product shard that alone gets a command, as operators see it; nothing if there is none."""
    return {} if command.participant in tuple(Participant) else {"participant": command.participant}


def merge(command: Command, outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of a command from those of its parts: applied if all are, else refused.

    If only some parts are refused, the outcome says so, because the others hold stock that must be restored.
    """
    refusals = [outcome.body for outcome in outcomes if not outcome.applied]
    if refusals:
        kind = PartlyRefused if len(refusals) < len(outcomes) else Outcome
        return kind(False, _joined(command, refusals))
    if command.type != HOLD.do:
        return outcomes[0]
    held = {line["product_id"]: line for outcome in outcomes for line in outcome.body["lines"]}
    return Outcome(True, {"lines": [held[line.product_id] for line in command.lines]})


def _joined(command: Command, refusals: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return one problem for those of several parts, as one product service would have answered.

    A fenced part wins: it may have been applied and forgotten since, so every undo is needed. Then an unknown product
    comes before too few units.
    """
    for problem in refusals:
        if is_fenced(problem):
            return problem
    first = min(refusals, key=lambda problem: problem["type"] != _NOT_FOUND)
    alike = [problem for problem in refusals if problem["type"] == first["type"]]
    named = {product_id for problem in alike for product_id in problem.get("product_ids", ())}
    more = len(named) - len(first.get("product_ids", ()))
    if more == 0:
        return first
    ids = [line.product_id for line in command.lines if line.product_id in named]
    return {**first, "product_ids": ids, "detail": f"{first['detail']} The same holds for {more} more."}


def shards_of(addresses: Sequence[tuple[Collection[int], str]]) -> tuple[ProductShards, dict[str, str]]:
    """Return the shards, and the URL of each place, for the slots and the address of each. Raises ValueError.

    Either every address has slots, or none has: then each gets an equal share, in their order.
    """
    urls = [url for _, url in addresses]
    if len(set(urls)) < len(urls):
        raise ValueError("an address is named twice")
    if not any(slots for slots, _ in addresses):
        addresses = [(_share(n, len(urls)), url) for n, url in enumerate(urls)]
    names = {url: Participant.PRODUCT.value if len(urls) == 1 else f"product-{n}" for n, url in enumerate(urls)}
    owners: list[str] = [""] * SLOTS
    for slots, url in addresses:
        if not slots:
            raise ValueError("either each address has slots, or none has")
        for slot in slots:
            if owners[slot]:
                raise ValueError(f"slot {slot} has two owners")
            owners[slot] = names[url]
    if "" in owners:
        raise ValueError(f"slot {owners.index('')} has no owner")
    return ProductShards(owners), {names[url]: url for url in urls}


def _share(number: int, count: int) -> range:
    """Return the slots of one of several shards that have equal shares."""
    return range(SLOTS * number // count, SLOTS * (number + 1) // count)
