"""Starts the product service: passes its own parts to the assembly that all participants share."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from services.product import batch, store
from services.product.api import ProductApi
from services.product.settings import Settings
from shared.contracts.commands import ProductCommands
from shared.http.routes import Route
from shared.participant.service import Participant, serve_participant
from shared.postgres.connections import Pool
from shared.process.main import Service, main
from shared.slots import SLOTS, parse_slots


def _routes(pool: Pool, settings: Any) -> Sequence[Route]:
    return ProductApi(pool, settings.currency, settings.client_timeout_seconds, parse_slots(settings.slots)).routes()


def _is_foreign(settings: Any) -> Callable[[Any], bool] | None:
    """Return what says whether a command names a product of another shard; None if there is no other."""
    slots = parse_slots(settings.slots)
    return None if len(slots) == SLOTS else partial(batch.is_foreign, slots)


PARTICIPANT = Participant(
    name="product",
    description="Products, their prices and their stock.",
    commands=ProductCommands,
    to_command=batch.to_command,
    execute=batch.execute,
    fast_path=batch.fast_path,
    gates=store.GATES,
    read_holds=store.list_holds,
    read_own_holds=store.list_own_holds,
    check_books=store.check_books,
    routes=_routes,
    is_foreign=_is_foreign,
)
serve = partial(serve_participant, PARTICIPANT)

if __name__ == "__main__":
    main(Service("product", Settings, "products", Path(__file__).parent / "migrations", serve))
