"""Rules of the product, each taken out in turn: a simulation that does not notice is not worth its time.

RULES are those whose removal the reference model of the protocol catches, under its names. BUGS are mistakes of the
kind that programmers make.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from services.order import saga
from services.order.saga import Kind
from shared.participant import protocol
from shared.participant.protocol import Outcome
from tests.simulation import mutations as take_out
from tests.simulation.memory.orders import OrdersDatabase
from tests.simulation.memory.participants import ParticipantDatabase
from tests.simulation.mutations import Patch, replaced


@dataclass(frozen=True, slots=True)
class Mutant:
    """A product with one rule less; `name` says which."""

    name: str
    patches: tuple[Patch, ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Take the rule out while the body runs."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patch())
            yield


def _mutant(name: str, *patches: Patch) -> Mutant:
    return Mutant(name, patches)


_BACK_TO_PENDING = (take_out.force(pay_target="PENDING_PAYMENT"), take_out.expects_no_event_of_pending())
_STUCK = replaced(OrdersDatabase, "mark_stuck", take_out.stuck_loses_direction)

RULES = (
    _mutant("debit key without attempt", replaced(protocol, "key", lambda command: (command.gate, command.type, 0))),
    _mutant("refusals not stored", take_out.stores(lambda outcome: outcome.applied)),
    _mutant("applied outcomes not stored", take_out.stores(lambda outcome: not outcome.applied)),
    _mutant(
        "undo forgets outcomes, no close",
        replaced(ParticipantDatabase, "close_gates", take_out.forgets_instead_of_closing),
    ),
    _mutant("undo does not fence late dos", take_out.decide_one(fenced=lambda _: False)),
    _mutant(
        "release fences reserve only + redeem accepts AVAILABLE",
        take_out.decide_one(fenced=lambda command: command.type != "redeem_coupon"),
        take_out.redeems_what_is_available(),
    ),
    _mutant("release without ownership check", *take_out.release_of_any_coupon()),
    _mutant("guard: no saga id", take_out.guarded_on(saga_id=False)),
    _mutant("guard: no owner, no saga id", take_out.guarded_on(saga_id=False, owner=False)),
    _mutant("guard: no saga status", take_out.guarded_on(status=False)),
    _mutant("no one-live guard, status at end", *take_out.any_number_of_sagas()),
    _mutant(
        "decides on a timeout (payment -> PENDING)",
        take_out.unknown_is(Outcome(False, {"type": "/problems/timeout", "status": 400}), of_undos=False),
    ),
    _mutant("forced payment returns to PENDING", *_BACK_TO_PENDING),
    _mutant("forced payment -> PENDING, undo by attempt", *_BACK_TO_PENDING, take_out.refund_fences_known_attempts()),
    _mutant("operator force unguarded", take_out.force(running=False)),
    _mutant("COMPENSATED before undos are acknowledged", take_out.unknown_is(Outcome(True, {}), of_undos=True)),
    _mutant("cancel/expiry without saga row in the same commit", take_out.no_row_for_closings()),
    _mutant(
        "refused payment also sends the undos",
        take_out.refused_payment_undoes(),
        take_out.expects_no_event_of_pending(),
    ),
    _mutant("STUCK overwrites direction", _STUCK),
    _mutant("a do of an order that is past is taken for new", take_out.nothing_is_past()),
    _mutant("holds are forgotten with their gates", take_out.forgets_holds()),
    _mutant(
        "STUCK overwrites direction + stored outcome wins over close",
        _STUCK,
        take_out.decide_one(fenced=lambda _: True, stored_first=True),
    ),
)

BUGS = (
    _mutant("nobody takes over", replaced(OrdersDatabase, "take_over", lambda *_: [])),
    _mutant("a saga that lost its runner is left alone", replaced(OrdersDatabase, "list_own", lambda *_: [])),
    _mutant("a saga taken over skips an undo", take_out.taken_over_as_if_undone()),
    _mutant("expiry by the process' clock", take_out.clock_of_the_process()),
    _mutant("keys claimed apart from the start", *take_out.key_apart_from_start()),
    _mutant("stock held as far as it goes", take_out.holds_what_there_is()),
    _mutant("outcomes in another order than commands", take_out.outcomes_in_another_order()),
    _mutant("an expiry forgets the coupon", take_out.without_undo_of(Kind.CLOSE, saga.REDEEM.undo)),
    _mutant("a payment redeems what is not reserved", take_out.redeems_without_reservation()),
    _mutant("a fenced command counts as applied", replaced(protocol, "FENCED", Outcome(True, {}))),
)
