"""Starts the coupon service: passes its own parts to the assembly that all participants share."""

from functools import partial
from pathlib import Path

from services.coupon import batch, store
from services.coupon.api import CouponApi
from services.coupon.settings import Settings
from shared.contracts.commands import CouponCommands
from shared.http.routes import Route
from shared.participant.service import Participant, serve_participant
from shared.postgres.connections import Pool
from shared.process.main import Service, main
from shared.process.settings import ParticipantSettings


def _routes(pool: Pool, settings: ParticipantSettings) -> list[Route]:
    assert isinstance(settings, Settings)
    return CouponApi(pool, settings.currency, settings.ownership, settings.client_timeout_seconds).routes()


PARTICIPANT = Participant(
    name="coupon",
    description="Coupons, and the orders that reserve and redeem them.",
    commands=CouponCommands,
    to_command=batch.to_command,
    execute=batch.execute,
    fast_path=batch.fast_path,
    gates=store.GATES,
    read_holds=store.list_holds,
    check_books=store.check_books,
    routes=_routes,
)
serve = partial(serve_participant, PARTICIPANT)

if __name__ == "__main__":
    main(Service("coupon", Settings, "coupons", Path(__file__).parent / "migrations", serve))
