"""Lists the mutants of the product that the simulation must detect.

RULES remove the rules of the protocol's reference model, under the names of its mutants. BUGS are typical mistakes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from services.order import product_shards, saga
from services.order.saga import Kind
from shared.participant import protocol
from shared.participant.protocol import Outcome
from tests.simulation import mutations, shard_mutations
from tests.simulation.memory.orders import OrdersDatabase
from tests.simulation.memory.participants import ParticipantDatabase
from tests.simulation.mutations import Patch, replace


@dataclass(frozen=True, slots=True)
class Mutant:
    """The product without one rule, which `name` describes."""

    name: str
    patches: tuple[Patch, ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Remove the rule while the body runs."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patch())
            yield


def _mutant(name: str, *patches: Patch) -> Mutant:
    return Mutant(name, patches)


_BACK_TO_PENDING = (mutations.force(pay_target="PENDING_PAYMENT"), mutations.omit_event_of_pending())
_STUCK = replace(OrdersDatabase, "mark_stuck", mutations.set_stuck_to_running)

SHARD_RULES = (
    _mutant("a partly refused hold counts as refused", replace(product_shards, "PartlyRefused", Outcome)),
    _mutant("a hold is known without all its parts", shard_mutations.know_without_all_parts()),
    _mutant("an undo goes to one shard only", shard_mutations.change_undos(lambda _, parts: parts[:1])),
)
RULES = (
    _mutant("debit key without attempt", replace(protocol, "key", lambda command: (command.gate, command.type, 0))),
    _mutant("refusals not stored", mutations.store_only(lambda outcome: outcome.applied)),
    _mutant("applied outcomes not stored", mutations.store_only(lambda outcome: not outcome.applied)),
    _mutant(
        "undo forgets outcomes, no close",
        replace(ParticipantDatabase, "close_gates", mutations.delete_outcomes_instead_of_closing),
    ),
    _mutant("undo does not fence late dos", mutations.decide_one(fenced=lambda _: False)),
    _mutant(
        "release fences reserve only + redeem accepts AVAILABLE",
        mutations.decide_one(fenced=lambda command: command.type != "redeem_coupon"),
        mutations.redeem_available_coupons(),
    ),
    _mutant("release without ownership check", *mutations.release_any_coupon()),
    _mutant("guard: no saga id", mutations.guard_on(saga_id=False)),
    _mutant("guard: no owner, no saga id", mutations.guard_on(saga_id=False, owner=False)),
    _mutant("guard: no saga status", mutations.guard_on(status=False)),
    _mutant("no one-live guard, status at end", *mutations.allow_several_sagas()),
    _mutant(
        "decides on a timeout (payment -> PENDING)",
        mutations.take_unknown_as(Outcome(False, {"type": "/problems/timeout", "status": 400}), of_undos=False),
    ),
    _mutant("forced payment returns to PENDING", *_BACK_TO_PENDING),
    _mutant("forced payment -> PENDING, undo by attempt", *_BACK_TO_PENDING, mutations.fence_known_attempts_only()),
    _mutant("operator force unguarded", mutations.force(running=False)),
    _mutant("COMPENSATED before undos are acknowledged", mutations.take_unknown_as(Outcome(True, {}), of_undos=True)),
    _mutant("cancel/expiry without saga row in the same commit", mutations.omit_row_of_closing()),
    _mutant(
        "refused payment also sends the undos",
        mutations.undo_refused_payment(),
        mutations.omit_event_of_pending(),
    ),
    _mutant("STUCK overwrites direction", _STUCK),
    _mutant("a do of an order that is past is taken for new", mutations.accept_past_orders()),
    _mutant("holds are forgotten with their gates", mutations.prune_all_holds()),
    _mutant(
        "STUCK overwrites direction + stored outcome wins over close",
        _STUCK,
        mutations.decide_one(fenced=lambda _: True, stored_first=True),
    ),
    *SHARD_RULES,
    _mutant("an undo goes to other shards", shard_mutations.change_undos(shard_mutations.to_the_next_shard)),
)

BUGS = (
    _mutant("nobody takes over", replace(OrdersDatabase, "take_over", lambda *_: [])),
    _mutant("a saga that lost its runner is left alone", replace(OrdersDatabase, "list_own", lambda *_: [])),
    _mutant("a saga taken over skips an undo", mutations.mark_undone_on_take_over()),
    _mutant("expiry by the process' clock", mutations.use_process_clock()),
    _mutant("keys claimed apart from the start", *mutations.omit_keys_at_start()),
    _mutant("stock held as far as it goes", mutations.hold_partly()),
    _mutant("outcomes in another order than commands", mutations.reorder_outcomes()),
    _mutant("an expiry forgets the coupon", mutations.omit_undo(Kind.CLOSE, saga.REDEEM.undo)),
    _mutant("a payment redeems what is not reserved", mutations.redeem_without_reservation()),
    _mutant("a fenced command counts as applied", replace(protocol, "FENCED", Outcome(True, {}))),
    _mutant("processes differ in where products are", shard_mutations.slots_of_each_process()),
)
