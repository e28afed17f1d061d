"""Loads demo data with the client for Python callers. Existing data is not changed, so a restart adds nothing."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.client import Client, Problem
from deploy.client.problems import AccountNotFound, CouponExists, ProductExists

Json = dict[str, Any]

# Amounts are in the currency's minor unit. The stock is enough for thousands of runs of the printed commands.
PRODUCTS: tuple[Json, ...] = (
    {"product_id": "keyboard", "name": "Mechanical keyboard", "price": 45_000, "stock": 100_000},
    {"product_id": "mouse", "name": "Wireless mouse", "price": 25_000, "stock": 100_000},
    {"product_id": "monitor", "name": "27-inch monitor", "price": 320_000, "stock": 500},
    {"product_id": "print", "name": "Signed print, the last three", "price": 90_000, "stock": 3},
)
BALANCES: Mapping[str, int] = {"alice": 1_000_000_000, "bob": 100_000, "carol": 1_000}
COUPONS: tuple[Json, ...] = (
    {"coupon_id": "WELCOME10", "user_id": "alice", "kind": "percent", "value": 10, "max_discount": 10_000},
    {"coupon_id": "MINUS5000", "user_id": "alice", "kind": "fixed", "value": 5_000, "min_subtotal": 20_000},
    {"coupon_id": "BOB50", "user_id": "bob", "kind": "percent", "value": 50},
)


@dataclass(slots=True)
class Demo:
    """Loads the data, counting what was added. Raises ClientError if a service refuses it or does not answer."""

    client: Client
    added: int = 0

    async def load(self) -> int:
        """Add the missing products, coupons and balances; return how many were added."""
        for product in PRODUCTS:
            await self._add(self.client.products.create(**product), ProductExists)
        for coupon in COUPONS:
            await self._add(self.client.coupons.create(**coupon), CouponExists)
        for user_id, amount in BALANCES.items():
            await self._open_account(user_id, amount)
        return self.added

    async def _add(self, creation: Awaitable[object], exists: type[Problem]) -> None:
        try:
            await creation
        except exists:
            return
        self.added += 1

    async def _open_account(self, user_id: str, amount: int) -> None:
        """Charge an account unless it exists: an existing one may have been used, and is not changed."""
        try:
            await self.client.accounts.get(user_id)
        except AccountNotFound:
            # With the key, a load that was interrupted after the charge does not charge twice.
            await self.client.accounts.charge(user_id, amount, key=f"demo-data-{user_id}")
            self.added += 1
