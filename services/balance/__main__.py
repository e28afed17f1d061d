"""Starts the balance service: passes its own parts to the assembly that all participants share."""

from functools import partial
from pathlib import Path

from services.balance import batch, store
from services.balance.api import BalanceApi
from services.balance.settings import Settings
from shared.contracts.commands import BalanceCommands
from shared.http.routes import Route
from shared.participant.service import Participant, serve_participant
from shared.postgres.connections import Pool
from shared.process.main import Service, main
from shared.process.settings import ParticipantSettings


def _routes(pool: Pool, settings: ParticipantSettings) -> list[Route]:
    assert isinstance(settings, Settings)
    return BalanceApi(pool, settings.currency, settings.ownership, settings.client_timeout_seconds).routes()


PARTICIPANT = Participant(
    name="balance",
    description="Prepaid accounts and their ledger.",
    commands=BalanceCommands,
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
    main(Service("balance", Settings, "balances", Path(__file__).parent / "migrations", serve))
